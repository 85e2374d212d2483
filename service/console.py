"""Log events as lines for a person who reads along."""
