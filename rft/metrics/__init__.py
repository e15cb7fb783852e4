"""What is measured: one table of metrics, read by training, evaluation, reports, W&B and the docs."""
