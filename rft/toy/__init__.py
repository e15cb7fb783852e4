"""The small-scale pipeline: a tiny Qwen3, exercises to pre-train it, and the quickstart."""
