"""Loading the causal language model of a checkpoint folder or Hub id.

Only safetensors are read, and no code from a checkpoint is run. One log line names the chosen attention
kernel and the reason.
"""

import json
import logging
from pathlib import Path
from typing import Any

from rft.data.tokenizer import checkpoint, first_line
from rft.errors import CheckpointError
from rft.hub import local_only, out_of_reach, unreachable

logger = logging.getLogger(__name__)


def attention(requested: str | None) -> str:
    """Chooses the attention implementation to load a model with; logs the choice and the reason in one line.

    Args:
        requested: name of the implementation (None: no preference).

    Returns:
        `flash_attention_2` if it is requested (or None) and available, otherwise `sdpa`. Any other name is
        returned unchanged.
    """
    if requested not in (None, "flash_attention_2"):
        logger.info("attention: %s, as set in the recipe", requested)
        return requested
    import torch
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        chosen, why = "sdpa", "there is no CUDA device"
    elif not is_flash_attn_2_available():  # the flash_attn folder of FlashAttention 4 does not count
        chosen, why = "sdpa", "transformers finds no flash-attn it supports (pip install 'rft[flash]')"
    else:
        chosen, why = "flash_attention_2", "CUDA and flash-attn are available"
    logger.info("attention: %s, because %s", chosen, why)
    return chosen


def load_model(
    name: str,
    *,
    dtype: Any = "auto",
    attn_implementation: str | None = None,
    revision: str | None = None,
    merged: bool = True,
) -> Any:
    """Loads the causal language model of `name`. For a LoRA adapter folder, loads the base model and the
    adapter.

    Args:
        name: checkpoint folder or Hub id.
        dtype: a torch dtype, its name, or "auto" (as stored).
        attn_implementation: see `attention`.
        revision: revision on the Hub.
        merged: merge the adapter into the base model; otherwise keep it separate.

    Raises:
        CheckpointError: there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    name = checkpoint(name)
    folder, adapter = Path(name), Path(name) / "adapter_config.json"
    kwargs = {
        "dtype": getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype,
        "attn_implementation": attention(attn_implementation),
        "trust_remote_code": False,
        "use_safetensors": True,
        "local_files_only": local_only(name),
    }
    if folder.exists() and not (folder / "config.json").exists() and not adapter.exists():
        raise CheckpointError(
            f"{name}: contains neither config.json nor adapter_config.json; expected a checkpoint folder"
        )
    try:
        if adapter.exists():
            from peft import AutoPeftModelForCausalLM

            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
            kwargs["local_files_only"] = local_only(base or name)
            adapted = AutoPeftModelForCausalLM.from_pretrained(name, **kwargs)
            return _runnable(adapted.merge_and_unload()) if merged else adapted
        return _runnable(AutoModelForCausalLM.from_pretrained(name, revision=revision, **kwargs))
    except (OSError, ValueError) as error:
        if out_of_reach(name):
            raise CheckpointError(unreachable(name)) from None
        raise CheckpointError(
            f"{name}: cannot load a model ({first_line(error)}); expected a checkpoint folder with"
            " safetensors or a Hub id that this machine can reach"
        ) from None


def end_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """Returns the tokens that end a completion: those of the generation config (None: there is none) and of
    the tokenizer."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return sorted(set(ids))


def _runnable(model: Any) -> Any:
    """Switches the model to sdpa if flash-attn does not support its dtype (as loaded) or its head size."""
    from rft.prefix_tree.kernels import flash_takes
    from rft.prefix_tree.support import head_size

    if model.config._attn_implementation == "flash_attention_2" and not flash_takes(
        model.dtype, head_size(model)
    ):
        logger.info(
            "attention: sdpa instead, since flash-attn lacks %s with head size %d",
            model.dtype,
            head_size(model),
        )
        model.set_attn_implementation("sdpa")
    return model
