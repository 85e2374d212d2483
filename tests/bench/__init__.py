"""How fast the service is, measured from outside: `scripts/bench`."""
