"""Pure meaning: documents, schedules, plans and outcomes; no clock, no I/O."""
