"""Models on this machine: a checkpoint run by transformers (`LocalModel`), and the interface of any such
model (`Generator`).

Invariant: completions depend only on the weights, the prompt and the generation settings given here. Of a
checkpoint's `generation_config.json` only the end tokens are used, not the sampling settings. Greedy answers
do not depend on which questions share a batch, up to rounding.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from rft.data.prompt import fingerprint as tokenizer_fingerprint
from rft.data.tokenizer import load_tokenizer
from rft.errors import ModelError
from rft.models.loading import end_ids, load_model
from rft.prefix_tree import attention, support
from rft.prefix_tree.sample import sample

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """A model that generates completions.

    Attributes:
        name: checkpoint folder or Hub id.
        tokenizer: its tokenizer.
        end_ids: tokens that end a completion.
        longest: maximum sequence length in tokens (None: no limit).
        fingerprint: identifies the weights and the tokenizer.
        dtype: dtype of the weights.
    """

    name: str
    tokenizer: Any
    end_ids: list[int]
    longest: int | None
    fingerprint: str
    dtype: str

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Returns the completion of each prompt as token ids, including the end token."""
        ...


class LocalModel:
    """A causal language model and its tokenizer, loaded from a folder or Hub id (full or LoRA adapter).

    `fingerprint` is 16 hex digits over every weight and everything that determines token ids; it does not
    depend on the path of the checkpoint.

    Args:
        name: checkpoint folder or Hub id.
        device: torch device (None: CUDA if available, otherwise the CPU).
        dtype: as in `rft.models.loading.load_model`.

    Raises:
        CheckpointError: there is no such model.
    """

    def __init__(self, name: str | Path, device: str | None = None, dtype: Any = "auto"):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name, self.tokenizer = str(name), load_tokenizer(str(name))
        self.model = load_model(str(name), dtype=dtype).to(device).eval()
        self.device = next(self.model.parameters()).device
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.end_ids = end_ids(self.model.generation_config, self.tokenizer)
        self.longest = getattr(self.model.config, "max_position_embeddings", None)
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.end_ids, pad_token_id=self.tokenizer.pad_token_id
        )
        self.shares = self._can_share()
        self.fingerprint = _fingerprint(self.model, self.tokenizer)

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Returns the completion of each prompt as token ids, including the end token.

        Shared prefixes of prompts are prefilled only once if the model supports it. Temperature 0 is greedy;
        otherwise completions are sampled with `seed`. The global random state does not change.
        """
        if self.shares:
            generator = torch.Generator(self.device).manual_seed(seed)
            return sample(
                self.model,
                prompts,
                max_new_tokens=max_new_tokens,
                eos_ids=self.end_ids,
                temperature=temperature,
                generator=generator,
            )[0]
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids_BT = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])  # B: prompts
        mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out_BT = self.model.generate(
                input_ids=ids_BT.to(self.device),
                attention_mask=mask_BT.to(self.device),
                max_new_tokens=max_new_tokens,
                **sampling,
            )
        return [self._upto_end(row) for row in out_BT[:, width:].tolist()]

    def _can_share(self) -> bool:
        try:
            support.check_model(self.model)
        except ModelError as reason:
            logger.warning(
                "%s: every prompt is prefilled separately, because %s",
                self.name,
                str(reason).rsplit(";", 1)[0],
            )
            return False
        attention.enable(self.model)
        return True

    def _upto_end(self, ids: list[int]) -> list[int]:
        ends = [i for i, token in enumerate(ids) if token in self.end_ids]
        return ids[: ends[0] + 1] if ends else ids


def _fingerprint(model: Any, tokenizer: Any) -> str:
    digest = hashlib.sha256(tokenizer_fingerprint(tokenizer).encode("ascii"))
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
