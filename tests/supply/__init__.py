"""What is shipped: the lock files, the code's safety, and the manifest for Kubernetes."""
