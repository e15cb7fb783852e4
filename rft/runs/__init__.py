"""The life of a training run: spec, checkpoints, resume, early failure, tracking and model card."""
