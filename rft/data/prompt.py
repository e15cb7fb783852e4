r"""Prompt layouts and prompt token ids, computed once per history.

Invariant: `PromptTokens.history_ids(h) + PromptTokens.question_ids(q)` equals the chat template's rendering
of the complete conversation, token for token. The prompt is cut before the special token that opens the final
user message. A tokenizer never merges across a special token, so both parts can be tokenized and cached
separately. The equality is verified for each history when its ids are computed; a template that cannot be cut
this way is rejected. A prompt contains no labels of a question, and no dataset text acts as markup
(`rft.data.control`): `messages` breaks up the marks of common families, `PromptTokens` the tokenizer's other
special tokens.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rft.data.control import OPEN, inert, inert_messages, special_marks
from rft.data.history import History, Message, headed, shown_date
from rft.data.question import LETTERS, Question
from rft.errors import DataError, ModelError
from rft.files import write_atomic

logger = logging.getLogger(__name__)

CONTEXTS = ("history", "history_no_persona", "none")
SYSTEM = "You are a helpful assistant who personalizes answers from the conversation history."
PROBE = "a question that nobody asks"
RENDERING = 4
"""Version of the rendering in `_before` and `_compute`; part of cache file names, so files of other versions
are not read."""


def final_message(question: Question) -> str:
    """Returns the final user message: today's date, if the question has one, the query, its lettered options
    (unless it is asked without), and the answer format.

    Answers that are compared with accepted texts should be short. Whether a question can be answered makes no
    difference to its message.
    """
    today = f"Today is {shown_date(question.date)}.\n\n" if question.date else ""
    query = today + inert(question.query)
    if question.open_ended:
        brief = (
            " in as few words as possible. If the conversations do not tell it, say that it cannot be known"
        )
        brief = brief if question.compared else ""
        return f"{query}\n\nThink inside <think> and </think> tags, then answer{brief}."
    options = "\n".join(lettered(map(inert, question.options)))
    return (
        f"{query}\n\nThis is a multiple-choice question. Options:\n{options}\n"
        "Think inside <think> and </think> tags, then put the letter of the best option in \\boxed{}."
    )


def lettered(options: Iterable[str]) -> list[str]:
    """Returns options as they are listed: "(a) ...", "(b) ..."."""
    return [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]


def messages(question: Question, history: History | None, context: str) -> list[dict[str, str]]:
    """Returns the conversation that the model continues.

    Args:
        question: question of the final user message.
        history: history of the question; may be None in context "none".
        context: "history": generic system message, complete history with its persona message, final message;
            "history_no_persona": the same without the persona message; "none": no history.

    Raises:
        DataError: if the context is unknown, or if the history belongs to another question.
    """
    _same_history(question, history)
    return [*_before(history, context), {"role": "user", "content": final_message(question)}]


class PromptTokens:
    """Token ids of prompts in two parts: the history part, which is cached, and the question part.

    Args:
        tokenizer: fast tokenizer of transformers with a chat template.
        context: one of CONTEXTS.
        cache_dir: folder that keeps history ids between runs, one file per hash of tokenizer, context and
            history; None keeps them in RAM only.

    Raises:
        ModelError: if the tokenizer is not fast, or if its template cannot be cut before the final user
            message.
    """

    def __init__(self, tokenizer: Any, context: str = "history", cache_dir: Path | str | None = None):
        if context not in CONTEXTS:
            raise DataError(f"unknown context {context!r}; expected one of {', '.join(CONTEXTS)}")
        self.tokenizer = tokenizer
        self.context = context
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None
        self.fingerprint = fingerprint(tokenizer)
        self._special = special_marks(tokenizer)
        # History id -> numpy int32 array; a list of ints would be eight times as large.
        self._histories: dict[str, Any] = {}
        self._questions: dict[Question, list[int]] = {}
        self._short = [{"role": "system", "content": SYSTEM}]
        self._head, self._opening, self._closing = self._cut()
        self._one_system, self._merged = self._takes_one_system_message(), False

    def history_ids(self, history: History | None) -> list[int]:
        """Returns the ids before the final user message, as a new list. `history` may be None in context
        "none"."""
        key = history.id if history is not None and self.context != "none" else ""
        if key not in self._histories:
            self._histories[key] = self._load(key, history)
        return self._histories[key].tolist()

    def question_ids(self, question: Question) -> list[int]:
        """Returns the ids of the final user message and the generation prompt, as a new list."""
        if question not in self._questions:
            self._questions[question] = self.final_ids(final_message(question), question.id)
        return list(self._questions[question])

    def final_ids(self, text: str, name: str = "this message") -> list[int]:
        """Returns the ids that follow `history_ids`: `text` as the final user message, and the generation
        prompt.

        Args:
            text: content of the message.
            name: name of the message in error messages.
        """
        rendered = self._render([*self._short, {"role": "user", "content": text}])
        if not rendered.startswith(self._head + self._opening):
            raise ModelError(
                f"{self._name}: the chat template renders {name} differently from other messages"
            )
        return self._tokenize(rendered[len(self._head) :])

    def continuation(self, target: str) -> str:
        """Returns `target` (a completion that opens its think block) as it follows a prompt: without the
        opening tag if the chat template ends a prompt with one, and without special tokens."""
        return inert(target.removeprefix(OPEN) if self.opens_thought else target, self._special)

    @property
    def opens_thought(self) -> bool:
        """Whether the chat template opens the think block at the end of a prompt."""
        return self._closing.rstrip().endswith(OPEN)

    def shown(self, text: str) -> str:
        """Returns a text of other people as a prompt contains it: control marks are broken up."""
        return inert(inert(text), self._special)

    def message_tokens(self, role: str, text: str) -> int:
        """Returns the number of tokens that one message adds to a conversation, including its markup."""
        with_it = [*self._short, {"role": role, "content": inert(text)}, {"role": "user", "content": PROBE}]
        return len(self._tokenize(self._render(with_it))) - len(
            self._tokenize(self._render([with_it[0], with_it[-1]]))
        )

    def prompt_ids(self, question: Question, history: History | None) -> list[int]:
        """Returns the ids of the complete prompt: the chat template's rendering of `messages(question,
        history, context)`."""
        _same_history(question, history)
        return self.history_ids(history) + self.question_ids(question)

    @property
    def _name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__

    def _render(self, conversation: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                inert_messages(conversation, self._special), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ModelError(
                f"{self._name}: the chat template refuses this conversation ({error}); histories can have two"
                " consecutive user messages and can end with a user message, so use a template that allows"
                " both"
            ) from None

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _cut(self) -> tuple[str, str, str]:
        """Returns the rendered text before the final user message, from there to its content, and after its
        content."""
        text = self._render([*self._short, {"role": "user", "content": PROBE}])
        before, probe, closing = text.rpartition(PROBE)
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        cut = max((before.rfind(token) for token in special), default=-1)
        if not probe or cut < 0:
            raise ModelError(
                f"{self._name}: the chat template puts no special token before a user message, so a prompt "
                "cannot be split exactly; use a template such as ChatML, which opens each message with one"
            )
        return before[:cut], before[cut:], closing

    def _load(self, key: str, history: History | None) -> Any:
        import numpy as np

        if self.cache_dir is None:
            return np.array(self._compute(history), dtype=np.int32)
        content = json.dumps([self.fingerprint, self.context, SYSTEM, RENDERING, key])
        path = self.cache_dir / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.ids"
        try:
            ids = _read_ids(path)
            if ids is None:
                _write_ids(path, ids := np.array(self._compute(history), dtype=np.int32))
        except OSError as error:  # continue without the cache
            logger.warning(
                "%s: the token cache cannot be used (%s), so histories are tokenized in every run; set"
                " another token_cache",
                self.cache_dir,
                error.strerror or error,
            )
            self.cache_dir, ids = None, np.array(self._compute(history), dtype=np.int32)
        return ids

    def _takes_one_system_message(self) -> bool:
        """Whether the template refuses a second system message, or silently drops it."""
        second, user = {"role": "system", "content": PROBE}, {"role": "user", "content": SYSTEM}
        try:
            return PROBE not in self._render([*self._short, second, user])
        except ModelError:
            return True

    def _as_taken(self, before: list[dict[str, str]]) -> list[dict[str, str]]:
        """The messages before the final one. If the template accepts only one system message, the persona's
        system message becomes the second paragraph of the first."""
        if not self._one_system or len(before) < 2 or before[1]["role"] != "system":
            return before
        if not self._merged:
            logger.info(
                "%s: the chat template accepts one system message, so the persona's is merged into the first",
                self._name,
            )
            self._merged = True
        return [
            {"role": "system", "content": f"{before[0]['content']}\n\n{before[1]['content']}"},
            *before[2:],
        ]

    def _compute(self, history: History | None) -> list[int]:
        conversation = [*self._as_taken(_before(history, self.context)), {"role": "user", "content": PROBE}]
        text, last = self._render(conversation), self._opening + PROBE + self._closing
        ids = self._tokenize(text.removesuffix(last))
        whole = self.tokenizer.apply_chat_template(
            inert_messages(conversation, self._special),
            add_generation_prompt=True,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
        )
        if not text.endswith(last) or ids + self._tokenize(last) != whole:
            where = history.path if history is not None else "a prompt without history"
            raise ModelError(
                f"{self._name}: with {where}, history ids + question ids differ from the chat template's own "
                "rendering; the template moves or rewrites messages before the final one, or the tokenizer "
                "merges across its special tokens"
            )
        return ids


def fingerprint(tokenizer: Any) -> str:
    """Returns 16 hex digits of a hash over everything that determines token ids: vocabulary, merges, added
    tokens, normalizer and chat template.

    Raises:
        ModelError: if the tokenizer is not fast or has no chat template.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{name}: not a fast tokenizer; convert it to tokenizer.json")
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: the tokenizer has no chat template; add chat_template.jinja to its folder")
    state = json.loads(backend.to_str())
    state.pop("truncation", None)  # these two change during use and do not affect the ids of a text
    state.pop("padding", None)
    content = json.dumps([state, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _same_history(question: Question, history: History | None) -> None:
    if history is not None and history.id != question.history_id:
        raise DataError(
            f"question {question.id} is about history {question.history_id}, not {history.id}; pass its own"
            " history"
        )


def as_said(history_messages: Iterable[Message]) -> list[dict[str, str]]:
    """Returns history messages as they are shown to the model: with their dates and names
    (`rft.data.history.headed`), and control markup neutralized."""
    said, before = [], None
    for message in history_messages:
        said.append({"role": message.role, "content": inert(headed(message, before))})
        before = message
    return said


def _before(history: History | None, context: str) -> list[dict[str, str]]:
    """The messages before the final one."""
    if context not in CONTEXTS:
        raise DataError(f"unknown context {context!r}; expected one of {', '.join(CONTEXTS)}")
    context_messages: tuple[Message, ...] = ()
    if context != "none":
        if history is None:
            raise DataError(f"context {context!r} needs the question's history")
        context_messages = history.messages if context == "history" else history.turns
    return [{"role": "system", "content": SYSTEM}, *as_said(context_messages)]


def _read_ids(path: Path) -> Any | None:
    """The ids of a cache file; None if it is absent, truncated or altered. Raises OSError if it cannot be
    read.

    The file contains the ids as 4-byte little-endian integers, followed by the CRC-32 of these bytes.
    """
    import numpy as np

    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    ids, checksum = content[:-4], content[-4:]
    if not ids or len(ids) % 4 or zlib.crc32(ids).to_bytes(4, "little") != checksum:
        return None
    return np.frombuffer(ids, dtype="<i4")


def _write_ids(path: Path, ids: Any) -> None:
    """Writes a cache file atomically. Raises OSError if it cannot be written."""
    content = ids.astype("<i4").tobytes()
    write_atomic(path, content + zlib.crc32(content).to_bytes(4, "little"))
