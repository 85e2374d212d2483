"""Rights, certificates, secrets and signals: what an operator relies upon."""
