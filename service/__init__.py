"""The councilor scheduler: recurring agent runs from nothing but documents in MongoDB."""

__version__ = "0.1.0"
