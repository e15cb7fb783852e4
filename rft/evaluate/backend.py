"""A model on this machine that answers questions: a local checkpoint, or one that vLLM serves offline.

Invariant: what is generated depends on the weights, the prompt and the generation settings given here; the
sampling settings that a checkpoint ships in `generation_config.json` play no part, only its end tokens do.
Greedy answers do not depend on which questions share a batch, up to rounding.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from rft.data.history import History
from rft.data.prompt import PromptTokens
from rft.data.prompt import fingerprint as tokenizer_fingerprint
from rft.data.question import Question
from rft.errors import ModelError
from rft.evaluate.answer import Answer
from rft.evaluate.asks import seed_of
from rft.evaluate.context import Context, Whole
from rft.evaluate.retrieval import Retrieval
from rft.model import end_ids, load_model, load_tokenizer
from rft.prefix_tree import attention, gates
from rft.prefix_tree.sample import sample

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """What makes completions: its name, tokenizer, end tokens, longest sequence (None: any), and the fingerprint and
    dtype that its answers depend on."""

    name: str
    tokenizer: Any
    end_ids: list[int]
    longest: int | None
    fingerprint: str
    dtype: str

    def generate(self, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[list[int]]:
        """The completion of each prompt as token ids, up to and with the end token."""
        ...


class LocalModel:
    """A causal language model and its tokenizer, loaded from a folder or Hub id (full or LoRA adapter).

    device: CUDA where there is one, else the CPU. dtype: as `rft.model.load_model` takes it. fingerprint: 16
    hex digits over every weight and all that decides token ids; the same wherever the checkpoint lies.
    Raises CheckpointError where there is no such model.
    """

    def __init__(self, name: str | Path, device: str | None = None, dtype: Any = "auto"):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name, self.tokenizer = str(name), load_tokenizer(str(name))
        self.model = load_model(str(name), dtype=dtype).to(device).eval()
        self.device = next(self.model.parameters()).device
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.end_ids = end_ids(self.model.generation_config, self.tokenizer)
        self.longest = getattr(self.model.config, "max_position_embeddings", None)
        self.model.generation_config = GenerationConfig(eos_token_id=self.end_ids, pad_token_id=self.tokenizer.pad_token_id)
        self.shares = self._can_share()
        self.fingerprint = _fingerprint(self.model, self.tokenizer)

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[list[int]]:
        """The completion of each prompt as token ids, up to and with the end token; what prompts share is
        prefilled once, where the model allows it.

        temperature 0 is greedy; otherwise samples are drawn with `seed`, and the random state outside is left
        as it was.
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
            gates.check_model(self.model)
        except ModelError as reason:
            logger.warning("%s: every prompt is prefilled by itself, since %s", self.name, str(reason).rsplit(";", 1)[0])
            return False
        attention.enable(self.model)
        return True

    def _upto_end(self, ids: list[int]) -> list[int]:
        ends = [i for i, token in enumerate(ids) if token in self.end_ids]
        return ids[: ends[0] + 1] if ends else ids


class ModelAnswers:
    """The answerer of `--model`: a model on this machine that reads each question in one context.

    context: a `Context`, or the name of one in `rft.data.prompt`. max_new_tokens: of a completion; temperature: 0 is
    greedy; seed: of the samples; token_cache: folder where history tokens are kept between runs, None for memory
    only.
    """

    def __init__(
        self,
        model: Generator,
        context: Context | str = "history",
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
        token_cache: Path | str | None = None,
    ):
        self.model = model
        self.name = model.name
        self._context = Whole(context) if isinstance(context, str) else context
        self.context = self._context.name
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        if isinstance(self._context, Whole):  # whose history tokens many questions share
            self.tokens = PromptTokens(model.tokenizer, self.context, token_cache)
        self.settings: dict[str, Any] = {
            "model_fingerprint": model.fingerprint,
            "dtype": model.dtype,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            **self._context.settings,
        } | ({"sampling_seed": seed} if temperature > 0 else {})

    def answer(self, questions: Sequence[Question], history: History | None) -> list[Answer]:
        """One batch. Raises ModelError where a prompt does not fit the model, or the batch not the device."""
        prompts, shown = zip(*(self._prompt(question, history) for question in questions), strict=True)
        try:
            completions = self.model.generate(list(prompts), self.max_new_tokens, self.temperature, seed_of(self.seed, questions))
        except torch.cuda.OutOfMemoryError:
            raise ModelError(
                f"{self.name}: {len(questions)} prompts of up to {max(map(len, prompts))} tokens do not fit "
                "the device; choose a smaller --batch-size, the answers so far are kept"
            ) from None
        return [
            Answer(
                completion=self.model.tokenizer.decode(ids, skip_special_tokens=True),
                input_tokens=len(prompt),
                output_tokens=len(ids),
                finished=bool(ids) and ids[-1] in self.model.end_ids,
                read=read,
            )
            for prompt, ids, read in zip(prompts, completions, shown, strict=True)
        ]

    def _prompt(self, question: Question, history: History | None) -> tuple[list[int], str]:
        """(token ids, what the context says it shows). Raises ModelError where they do not fit the model."""
        context = self._context
        if isinstance(context, Whole):
            ids = self.tokens.prompt_ids(question, history)
            if not self._fits(ids):
                raise self._too_long(question, len(ids), "choose --context retrieval, a shorter --window, --context none,")
            return ids, context.read(question, history)
        if not isinstance(context, Retrieval):
            ids = self._ids(context.messages(question, history))
            if not self._fits(ids):
                raise self._too_long(question, len(ids), "choose smaller --memory-tokens")
            return ids, context.read(question, history)
        for passages in context.counts(question, history):
            ids = self._ids(context.messages(question, history, passages))
            if self._fits(ids):
                return ids, context.read(question, history, passages)
        room = next((n for n in range(passages - 1, 0, -1) if self._fits(self._ids(context.messages(question, history, n)))), 0)
        ways = f"{room} passages would fit: give --passages {room}, or --passages fit for as many as fit each question,"
        raise self._too_long(question, len(ids), ways if room else "not even one passage fits: choose --context none")

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self.model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def _fits(self, ids: Sequence[int]) -> bool:
        return self.model.longest is None or len(ids) + self.max_new_tokens <= self.model.longest

    def _too_long(self, question: Question, length: int, ways: str) -> ModelError:
        return ModelError(
            f"question {question.id}: {length} prompt tokens and up to {self.max_new_tokens} new ones are more than the "
            f"{self.model.longest} positions of {self.name}; {ways} or fewer --max-new-tokens"
        )


def _fingerprint(model: Any, tokenizer: Any) -> str:
    digest = hashlib.sha256(tokenizer_fingerprint(tokenizer).encode("ascii"))
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
