"""The demo: a stand-in Conductor, sample councilors, and a writer that tells a story."""
