"""Training from Python: a recipe as a dict, run as `rft sft|grpo|memory-sft|memory-grpo` runs it.

Invariant: a field means what it means in a recipe file and on the command line; all are read by
`rft.train.recipe.parse`.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from rft.errors import RecipeError
from rft.launch import allocator

METHODS = ("sft", "grpo", "memory-sft", "memory-grpo")


def fine_tune(method: str, fields: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> Any:
    """Trains a model in this process and saves it in `output_dir`.

    Args:
        method: "sft", "grpo", "memory-sft" or "memory-grpo".
        fields: the fields of a recipe, such as {"model_name_or_path": ..., "data": ..., "output_dir": ...}.
            With "config", a recipe file or the name of a shipped recipe, they override its fields.
        callbacks: more transformers `TrainerCallback`s.

    Returns:
        The trainer: `trainer.state.log_history` has the metrics, `trainer.model` the model.

    Raises:
        RecipeError: if there is no such method or field (the message has the nearest name), or a value is
            rejected.
        DryRun: after a dry run (`"dry_run": True`), which prints its plan.
        Interrupted: if a signal ended the training; its checkpoint is saved.
        RftError: another error that the user can fix.
    """
    if method not in METHODS:
        raise RecipeError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    os.environ.update(allocator(words))  # read when the first CUDA tensor is created
    train = import_module(f"rft.train.{method.replace('-', '_')}").train
    return train(fields, callbacks)
