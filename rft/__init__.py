"""Reinforcement fine-tuning of language models for personalization over long chat histories."""

__version__ = "0.2.0"
