"""The HTTP side: probes, metrics and JSON about councilors; read-only."""
