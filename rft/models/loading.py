"""Loading a checkpoint: the tokenizer and the causal language model of a folder or Hub id.

Only safetensors are read and no code from a checkpoint is run. Which attention kernel serves, and why, is said in one line.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

from rft.errors import CheckpointError
from rft.hub import local_only, out_of_reach, unreachable

logger = logging.getLogger(__name__)


def attention(requested: str | None) -> str:
    """The attention implementation to load a model with.

    `flash_attention_2` is taken where it is asked for (or nothing is asked for) and can run, else `sdpa`; any other name is
    passed through. The choice and its reason are logged in one line.
    """
    if requested not in (None, "flash_attention_2"):
        logger.info("attention: %s, as the recipe asks", requested)
        return requested
    import torch
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        chosen, why = "sdpa", "no CUDA device here"
    elif not is_flash_attn_2_available():  # nor by the flash_attn folder that FlashAttention 4 installs
        chosen, why = "sdpa", "no flash-attn that transformers takes is installed (pip install 'rft[flash]')"
    else:
        chosen, why = "flash_attention_2", "CUDA and flash-attn are here"
    logger.info("attention: %s, because %s", chosen, why)
    return chosen


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The fast tokenizer of `name`, with a chat template and a pad token.

    Raises:
        CheckpointError: no such folder or Hub id, no tokenizer in it, or no chat template.
    """
    from transformers import AutoTokenizer

    folder = _folder(name)
    if folder.is_dir() and not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise CheckpointError(f"{name}: no tokenizer in this checkpoint folder; copy tokenizer.json, tokenizer_config.json and "
                              "chat_template.jinja of its base model there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False,
                                                  local_files_only=local_only(name))
    except (OSError, ValueError) as error:
        if out_of_reach(name):
            raise CheckpointError(unreachable(name)) from None
        raise CheckpointError(f"{name}: cannot load a tokenizer ({_first_line(error)}); expected a checkpoint folder or a Hub id "
                              "that this machine can reach") from None
    if not tokenizer.chat_template:
        raise CheckpointError(f"{name}: the tokenizer has no chat template; add chat_template.jinja to its folder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, dtype: Any = "auto", attn_implementation: str | None = None, revision: str | None = None,
               merged: bool = True) -> Any:
    """The causal language model of `name`; a LoRA adapter folder gives its base model with the adapter merged in, or beside it.

    dtype: a torch dtype, its name, or "auto" (as stored). Raises CheckpointError where there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kwargs = {"dtype": getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype,
              "attn_implementation": attention(attn_implementation), "trust_remote_code": False, "use_safetensors": True,
              "local_files_only": local_only(name)}
    folder = _folder(name)
    if folder.exists() and not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{name}: neither config.json nor adapter_config.json here; expected a checkpoint folder")
    try:
        if (folder / "adapter_config.json").exists():
            from peft import AutoPeftModelForCausalLM

            base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
            kwargs["local_files_only"] = local_only(base or name)
            adapted = AutoPeftModelForCausalLM.from_pretrained(name, **kwargs)
            return _runnable(adapted.merge_and_unload()) if merged else adapted
        return _runnable(AutoModelForCausalLM.from_pretrained(name, revision=revision, **kwargs))
    except (OSError, ValueError) as error:
        if out_of_reach(name):
            raise CheckpointError(unreachable(name)) from None
        raise CheckpointError(
            f"{name}: cannot load a model ({_first_line(error)}); expected a checkpoint folder with safetensors "
            "or a Hub id that this machine can reach") from None


def end_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a completion: those of a checkpoint's generation config (None: it has none) and its tokenizer's."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return sorted(set(ids))


def _runnable(model: Any) -> Any:
    """The model, by sdpa where flash-attn does not take its dtype (as loaded) or its heads."""
    from rft.prefix_tree.kernels import flash_takes
    from rft.prefix_tree.support import head_size

    if model.config._attn_implementation == "flash_attention_2" and not flash_takes(model.dtype, head_size(model)):
        logger.info("attention: sdpa after all, because flash-attn takes no %s with heads of %d", model.dtype, head_size(model))
        model.set_attn_implementation("sdpa")
    return model


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.exists() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):  # nothing that the Hub could know
        raise CheckpointError(
            f"{name}: no such folder; expected a checkpoint folder or a Hub id such as Qwen/Qwen3-4B-Instruct-2507")
    return folder


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
