"""Answers of a model on this machine, which reads each question in one context.

Invariant: if a prompt does not fit into the model, or a batch does not fit on the device, the error says what
would fit. Nothing is truncated silently.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from rft.data.control import inert_messages, special_marks
from rft.data.history import History
from rft.data.prompt import PromptTokens
from rft.data.question import Question
from rft.errors import ModelError
from rft.evaluate.answer import Answer
from rft.evaluate.context import Context, FullHistoryContext
from rft.evaluate.retrieval import Retrieval
from rft.evaluate.variants import seed_of
from rft.models.local import Generator


class ModelAnswers:
    """The answerer of `--model`: a model on this machine that reads each question in one context.

    Args:
        model: generates the completions.
        context: a `Context`, or the name of one in `rft.data.prompt`.
        max_new_tokens: maximum tokens per completion.
        temperature: 0 is greedy.
        seed: seed of the sampling.
        token_cache: folder where history tokens are kept between runs; None keeps them only in RAM.
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
        self._context = FullHistoryContext(context) if isinstance(context, str) else context
        self.context = self._context.name
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self._special = special_marks(model.tokenizer)
        if isinstance(self._context, FullHistoryContext):  # many questions share its history tokens
            self.tokens = PromptTokens(model.tokenizer, self.context, token_cache)
        self.settings: dict[str, JsonValue] = {
            "model_fingerprint": model.fingerprint,
            "dtype": model.dtype,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            **self._context.settings,
        } | ({"sampling_seed": seed} if temperature > 0 else {})

    def answer(self, questions: Sequence[Question], history: History | None) -> list[Answer]:
        """Answers one batch of questions about one history.

        Raises:
            ModelError: a prompt does not fit into the model, or the batch does not fit on the device.
        """
        prompts, shown = zip(*(self._prompt(question, history) for question in questions), strict=True)
        try:
            completions = self.model.generate(
                list(prompts), self.max_new_tokens, self.temperature, seed_of(self.seed, questions)
            )
        except torch.cuda.OutOfMemoryError:
            raise ModelError(
                f"{self.name}: {len(questions)} prompts of up to {max(map(len, prompts))} tokens do not fit"
                " on the device; choose a smaller --batch-size (the answers so far are kept)"
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
        """(token ids, summary of what the context shows). Raises ModelError if they do not fit into the
        model."""
        context = self._context
        if not isinstance(context, Retrieval):
            if isinstance(context, FullHistoryContext):
                ids = self.tokens.prompt_ids(question, history)
                ways = "choose --context retrieval, a shorter --window, --context none,"
            else:
                ids = self._ids(context.messages(question, history))
                ways = "choose smaller --memory-tokens"
            if not self._fits(ids):
                raise self._too_long(question, len(ids), ways)
            return ids, context.read(question, history)
        for passages in context.counts(question, history):
            ids = self._ids(context.messages(question, history, passages))
            if self._fits(ids):
                return ids, context.read(question, history, passages)
        ways = "not even one passage fits: choose --context none"
        for room in range(passages - 1, 0, -1):
            if self._fits(self._ids(context.messages(question, history, room))):
                ways = (
                    f"{room} passages would fit: give --passages {room}, or --passages fit for as many as fit"
                    " per question,"
                )
                break
        raise self._too_long(question, len(ids), ways)

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self.model.tokenizer.apply_chat_template(
            inert_messages(messages, self._special), add_generation_prompt=True, return_dict=False
        )

    def _fits(self, ids: Sequence[int]) -> bool:
        return self.model.longest is None or len(ids) + self.max_new_tokens <= self.model.longest

    def _too_long(self, question: Question, length: int, ways: str) -> ModelError:
        return ModelError(
            f"question {question.id}: {length} prompt tokens and up to {self.max_new_tokens} new tokens"
            f" exceed the {self.model.longest} positions of {self.name}; {ways} or fewer --max-new-tokens"
        )
