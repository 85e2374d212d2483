"""Random faults on a whole deployment, and a check of what must hold all the same."""
