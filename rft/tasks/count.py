"""The length of prompts: what decides which model, window and batch size fit."""

from pathlib import Path
from typing import Any

from rft.data.prompt import PromptTokens
from rft.data.tokenizer import load_tokenizer
from rft.tasks.base import Split


def count_tokens(split: Split, tokenizer: Any, context: str = "history") -> dict[str, int]:
    """Returns the number of prompt tokens of every question.

    Args:
        split: the questions, as `load_split` returns them.
        tokenizer: tokenizer folder, Hub id or object.
        context: what the prompt contains besides the question: "history", "history_no_persona" or "none".

    Returns:
        {question id: tokens of its history and question}.

    Raises:
        CheckpointError: there is no such tokenizer, or it has no chat template.
        DataError: a history cannot be tokenized in this context.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer))
    tokens = PromptTokens(tokenizer, context)
    return {q.id: len(tokens.prompt_ids(q, split.history_of(q))) for q in split.questions}
