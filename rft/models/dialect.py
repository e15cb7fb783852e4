"""Adapts requests to one server: options that it refuses are left out or sent in another form, and each
change is logged once.

Invariant: a request contains everything that was asked for, or as much as the server accepts; `adapted` lists
every difference. An option is left out only after the server has refused or ignored it. Each change is made
only once, so adapting terminates.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft.models.reply import Words

CAPS = ("max_completion_tokens", "max_tokens")
"""Names of the option that limits the answer length: the current one, and that of older servers."""

OPTIONAL = (*CAPS, "temperature", "seed", "stream_options", "response_format")
CONTEXT = re.compile(
    r"context[ _-]?(length|size|window|limit)|maximum (context|input|prompt)|n_ctx|reduce the"
    r" length|`?inputs`? tokens"
    r"|too many (input |prompt )?tokens|context_length|exceed_context|string_above_max_length",
    re.IGNORECASE,
)
PROMPT_TOO_LONG = re.compile(
    r"\b(prompt|input|request|messages?|conversation|payload|entity|string)\b.{0,60}\b(too"
    r" (long|large)|longer than)"
    r"|\b(prompt|input|messages?|tokens?)\b.{0,60}\bexceed.{0,60}(token|length|maximum)",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content[ _]?(filter|management|policy)|usage policy|safety"
    r" system|moderation|flagged|responsible_?ai|data_?inspection"
    r"|inappropriate content",
    re.IGNORECASE,
)
CAP_TOO_LARGE = re.compile(
    r"too (large|high|big)|at most|maximum|less than|smaller|exceed|<=|above", re.IGNORECASE
)
STREAM = re.compile(
    r"\bstream\w*\b.{0,40}\b(only|must|required?|enabled?|true)\b|\b(only|must|requires?|enable)\b.{0,40}\bstream|non-?stream",
    re.IGNORECASE,
)
SYSTEM = re.compile(r"system (message|role|prompt)", re.IGNORECASE)
NO_SYSTEM = re.compile(
    r"system (message|role|prompt)s?\b.{0,20}\b(not|un)\s?(be )?(supported|allowed)", re.IGNORECASE
)
ALTERNATE = re.compile(r"roles? must alternate|must alternate|consecutive|same role", re.IGNORECASE)

Messages = Sequence[Mapping[str, str]]


def too_long(error: Words, status: int) -> bool:
    """Returns whether an error means that the prompt is too long for the server."""
    if status == 429:  # rate limit: too long only if this request alone exceeds it
        return "request too large" in error.message.lower()
    if status == 413 or CONTEXT.search(f"{error.code} {error.message}"):
        return True
    return bool(PROMPT_TOO_LONG.search(error.message)) and not cap_too_large(error)


def cap_too_large(error: Words) -> bool:
    """Returns whether an error means that the requested maximum answer length is too large."""
    return any(name in f"{error.param} {error.message}" for name in CAPS) and bool(
        CAP_TOO_LARGE.search(error.message)
    )


def filtered(error: Words) -> bool:
    """Returns whether an error means that a content filter refused the prompt."""
    return bool(FILTERED.search(f"{error.code} {error.message}"))


class Dialect:
    """What has been learned about one server.

    Args:
        tell: called with one line for each thing learned.
    """

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self.refused: set[str] = set()
        self.merged: tuple[str, ...] = ()  # roles whose consecutive messages are merged
        self.no_system = self.streams = False
        self.adapted: tuple[str, ...] = ()

    @property
    def cap(self) -> str | None:
        """The option that limits the answer length on this server (None: it has none)."""
        return next((name for name in CAPS if name not in self.refused), None)

    def body(self, messages: Messages, max_tokens: int | None = None, **options: Any) -> dict[str, Any]:
        """Builds the messages and options of a request in the form that the server accepts.

        Args:
            messages: the messages to send.
            max_tokens: maximum tokens of the answer.
            options: other options; None leaves an option to the server. `response_format` is a pydantic
                model; if the server refuses it, the first message asks for its schema instead.
        """
        form = options.get("response_format")
        if form is not None and "response_format" in self.refused:
            asked = f"Answer with JSON of this schema alone: {json.dumps(form.model_json_schema())}"
            messages = [{**messages[0], "content": f"{messages[0]['content']}\n\n{asked}"}, *messages[1:]]
        if self.cap:
            options[self.cap] = max_tokens
        if self.streams:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        kept = {key: value for key, value in options.items() if value is not None and key not in self.refused}
        return {"messages": self._messages(messages), **kept}

    def learn(self, error: Words, sent: Mapping[str, Any]) -> bool:
        """Learns from an error.

        Args:
            error: the error.
            sent: the body of the request.

        Returns:
            Whether something was learned, so that the same request should be sent again in another form.
        """
        if self._learn_roles(error.message, [message["role"] for message in sent["messages"]]):
            return True
        if STREAM.search(error.message) and "stream_options" not in error.message and "stream" not in sent:
            self._note("the server only streams", "streamed", streams=True)
            return True
        names = [name for name in OPTIONAL if name in sent]
        wrong = [name for name in names if error.param.split(".")[-1].split("[")[0] == name]
        wrong = wrong or [name for name in names if re.search(rf"(?<![\w-]){name}(?![\w-])", error.message)]
        for name in wrong:
            self.drop(name, "refuses")
        return bool(wrong)

    def drop(self, name: str, does: str) -> None:
        """Leaves an option out from now on.

        Args:
            name: the option.
            does: what the server did with it: ends in "refuses" or "ignores"; used in the log line.
        """
        if name in self.refused:
            return
        self.refused.add(name)
        how = f"{self.cap} instead of {name}" if name in CAPS and self.cap else f"{name} left out"
        self._note(f"the server {does} {name}", how)

    def _learn_roles(self, message: str, roles: Sequence[str]) -> bool:
        if NO_SYSTEM.search(message) and "system" in roles:
            self._note(
                "the server accepts no system message", "system message put into the user's", no_system=True
            )
        elif ALTERNATE.search(message) and any(a == b for a, b in zip(roles, roles[1:], strict=False)):
            roles_merged = ("system", "user", "assistant")
            self._note(
                "the server requires alternating roles", "messages of one role merged", merged=roles_merged
            )
        elif SYSTEM.search(message) and roles[:2] == ["system", "system"]:
            self._note(
                "the server accepts only one system message", "system messages merged", merged=("system",)
            )
        else:
            return False
        return True

    def _note(self, why: str, how: str, **learned: Any) -> None:
        for name, value in learned.items():
            setattr(self, name, value)
        if how not in self.adapted:
            self.adapted = (*self.adapted, how)
            self.tell(f"{why}: {how}")

    def _messages(self, messages: Messages) -> list[dict[str, str]]:
        merged = {*self.merged, "user"} if self.no_system else set(self.merged)
        whole: list[dict[str, str]] = []
        for message in messages:
            role = "user" if self.no_system and message["role"] == "system" else message["role"]
            if whole and role in merged and whole[-1]["role"] == role:
                whole[-1] = {"role": role, "content": f"{whole[-1]['content']}\n\n{message['content']}"}
            else:
                whole.append({"role": role, "content": message["content"]})
        return whole
