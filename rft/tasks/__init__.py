"""What is asked about a history: datasets of one's own, and benchmarks of others."""
