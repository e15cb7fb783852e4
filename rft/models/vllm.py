"""vLLM as an offline backend, for full checkpoints on GPUs. Requires vLLM to be installed.

Invariant: this backend gets the same token ids as the local backend and decodes by the same rule (greedy, or
plain sampling at a temperature), so answers differ only by rounding.
"""

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

from rft.data.prompt import fingerprint as tokenizer_fingerprint
from rft.data.tokenizer import checkpoint, load_tokenizer
from rft.errors import CheckpointError, ModelError
from rft.hub import local_only
from rft.models.loading import end_ids

logger = logging.getLogger(__name__)


class VLLMModel:
    """A checkpoint folder or Hub id in vLLM, with prefix caching.

    It uses as many visible GPUs as evenly divide the attention heads, and accepts prompts as long as fit into
    GPU memory. The float32 weights of a training checkpoint run in bfloat16; vLLM's own "auto" would choose
    float16. `fingerprint` is 16 hex digits over the tokenizer and every weight file, or over the name for a
    Hub id.

    Args:
        name: checkpoint folder or Hub id.
        dtype: dtype of the weights, as in vLLM.

    Raises:
        ModelError: vLLM is not installed.
        CheckpointError: the checkpoint is an adapter.
    """

    def __init__(self, name: str | Path, dtype: str = "auto"):
        try:
            import vllm
        except ImportError as error:
            raise ModelError(
                f"--vllm: vLLM cannot be imported ({error}); pip install 'rft[vllm]' on a machine with a GPU,"
                " or leave --vllm out for the local backend"
            ) from None
        import torch
        from transformers import AutoConfig

        self.name = checkpoint(str(name))
        if (Path(self.name) / "adapter_config.json").exists():
            raise CheckpointError(
                f"{name}: is an adapter, but --vllm needs a full checkpoint; merge it, or leave --vllm out"
            )
        self.tokenizer = load_tokenizer(self.name)
        config = AutoConfig.from_pretrained(self.name, local_files_only=local_only(self.name))
        self.dtype = "bfloat16" if dtype == "auto" and config.dtype == torch.float32 else dtype
        self._vllm = vllm
        self._llm: Any = vllm.LLM(
            model=self.name,
            dtype=self.dtype,
            enable_prefix_caching=True,
            tensor_parallel_size=tensor_parallel(config, torch.cuda.device_count()),
            # as long as fits; the model's own 262,144 positions would need a KV cache of 36 GiB
            max_model_len=-1,
            generation_config="vllm",  # ignore the sampling settings of the checkpoint
        )
        self.longest = self._llm.llm_engine.model_config.max_model_len
        self.end_ids = _end_ids(self.name, self.tokenizer)
        self.fingerprint = _fingerprint(self.name, self.tokenizer)

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Returns the completion of each prompt as token ids, including the end token."""
        settings = [
            self._vllm.SamplingParams(
                max_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed + i if temperature else None,
                stop_token_ids=self.end_ids,
            )
            for i in range(len(prompts))
        ]
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
        return [self._ids(output.outputs[0]) for output in outputs]

    def _ids(self, completion: Any) -> list[int]:
        ids = list(completion.token_ids)
        if completion.finish_reason == "stop" and (not ids or ids[-1] not in self.end_ids):
            ids.append(self.end_ids[0])
        return ids


def tensor_parallel(config: Any, gpus: int) -> int:
    """Returns the largest number of GPUs, up to `gpus`, that evenly divides both the query and the key/value
    heads of a model.

    Logs a warning if GPUs are left idle.
    """
    text = config.get_text_config()
    heads = math.gcd(
        text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    )
    most = max((n for n in range(1, gpus + 1) if heads % n == 0), default=1)
    if most < gpus:
        logger.warning(
            "vLLM: using %d of %d GPUs, because %d heads cannot be divided evenly among more",
            most,
            gpus,
            heads,
        )
    return most


def _end_ids(name: str, tokenizer: Any) -> list[int]:
    from transformers import GenerationConfig

    try:
        stored = GenerationConfig.from_pretrained(name, local_files_only=local_only(name))
    except OSError:
        stored = None
    return end_ids(stored, tokenizer)


def _fingerprint(name: str, tokenizer: Any) -> str:
    files = sorted(Path(name).glob("*.safetensors"))
    digest = hashlib.sha256(json.dumps([tokenizer_fingerprint(tokenizer), None if files else name]).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
