"""Reads datasets in the PersonaMem-v2 layout into histories, questions and prompts."""
