"""Agentic memory: the model reads a history chunk by chunk into one readable memory and answers questions
from it."""
