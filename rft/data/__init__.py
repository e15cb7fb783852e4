"""The PersonaMem-v2 layout on disk, read into histories, questions and prompts."""
