"""Loading the tokenizer of a checkpoint folder or Hub id, without importing torch.

Invariant: no code from a checkpoint is run.
"""

import re
from pathlib import Path
from typing import Any

from rft.errors import CheckpointError
from rft.hub import local_only, out_of_reach, unreachable
from rft.shipped import locate

FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(name: str, revision: str | None = None, chat: bool = True) -> Any:
    """Loads the fast tokenizer of `name`.

    Args:
        name: checkpoint folder or Hub id.
        revision: revision on the Hub.
        chat: require a chat template, and set a pad token; otherwise the tokenizer only counts tokens.

    Raises:
        CheckpointError: no such folder or Hub id, no tokenizer in it, or no chat template.
    """
    from transformers import AutoTokenizer

    name = checkpoint(name)
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in FILES):
        raise CheckpointError(
            f"{name}: no tokenizer in this checkpoint folder; copy tokenizer.json, tokenizer_config.json and "
            "chat_template.jinja from its base model"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, local_files_only=local_only(name)
        )
    except (OSError, ValueError) as error:
        if out_of_reach(name):
            raise CheckpointError(unreachable(name)) from None
        raise CheckpointError(
            f"{name}: cannot load a tokenizer ({first_line(error)}); expected a checkpoint folder or a Hub"
            " id that this machine can reach"
        ) from None
    if not chat:
        return tokenizer
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"{name}: the tokenizer has no chat template; add chat_template.jinja to its folder"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def checkpoint(name: str) -> str:
    """Returns the folder of a local checkpoint or of one that comes with rft; otherwise the Hub id as given.

    Raises:
        CheckpointError: there is no such folder, and `name` is not a valid Hub id.
    """
    folder = locate(name)
    if folder.exists():
        return str(folder)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise CheckpointError(
            f"{name}: no such folder; expected a checkpoint folder or a Hub id such as"
            " Qwen/Qwen3-4B-Instruct-2507"
        )
    return name


def first_line(error: Exception) -> str:
    """Returns the first line of an error message, at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
