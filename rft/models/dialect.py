"""How one server wants to be asked: what it refuses is left out or put otherwise, once, and said.

Invariant: a request says what was wanted, or as much of it as the server takes; every difference stands in `adapted`. Nothing
is left out before the server has refused or ignored it, and each thing once, so that adapting ends.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft.models.reply import Words

CAPS = ("max_completion_tokens", "max_tokens")
"""The names of the longest answer: today's, and that of older servers."""

OPTIONAL = (*CAPS, "temperature", "seed", "stream_options", "response_format")
CONTEXT = re.compile(
    r"context[ _-]?(length|size|window|limit)|maximum (context|input|prompt)|n_ctx|reduce the length|`?inputs`? tokens"
    r"|too many (input |prompt )?tokens|context_length|exceed_context|string_above_max_length",
    re.IGNORECASE,
)
PROMPT_TOO_LONG = re.compile(
    r"\b(prompt|input|request|messages?|conversation|payload|entity|string)\b.{0,60}\b(too (long|large)|longer than)"
    r"|\b(prompt|input|messages?|tokens?)\b.{0,60}\bexceed.{0,60}(token|length|maximum)",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content[ _]?(filter|management|policy)|usage policy|safety system|moderation|flagged|responsible_?ai|data_?inspection"
    r"|inappropriate content",
    re.IGNORECASE,
)
CAP_TOO_LARGE = re.compile(r"too (large|high|big)|at most|maximum|less than|smaller|exceed|<=|above", re.IGNORECASE)
STREAM = re.compile(
    r"\bstream\w*\b.{0,40}\b(only|must|required?|enabled?|true)\b|\b(only|must|requires?|enable)\b.{0,40}\bstream|non-?stream",
    re.IGNORECASE,
)
SYSTEM = re.compile(r"system (message|role|prompt)", re.IGNORECASE)
NO_SYSTEM = re.compile(r"system (message|role|prompt)s?\b.{0,20}\b(not|un)\s?(be )?(supported|allowed)", re.IGNORECASE)
ALTERNATE = re.compile(r"roles? must alternate|must alternate|consecutive|same role", re.IGNORECASE)

Messages = Sequence[Mapping[str, str]]


def too_long(said: Words, status: int) -> bool:
    """Whether an error says that the prompt is more than the server reads."""
    if status == 429:  # of a rate: only what is beyond it by itself
        return "request too large" in said.message.lower()
    if status == 413 or CONTEXT.search(f"{said.code} {said.message}"):
        return True
    return bool(PROMPT_TOO_LONG.search(said.message)) and not cap_too_large(said)


def cap_too_large(said: Words) -> bool:
    """Whether an error says that answers may not be so long."""
    return any(name in f"{said.param} {said.message}" for name in CAPS) and bool(CAP_TOO_LARGE.search(said.message))


def filtered(said: Words) -> bool:
    """Whether an error says that a filter on content refuses this prompt."""
    return bool(FILTERED.search(f"{said.code} {said.message}"))


class Dialect:
    """What has been learned of one server. tell: is given one line for each thing learned."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self.refused: set[str] = set()
        self.merged: tuple[str, ...] = ()  # roles whose neighbours become one message
        self.no_system = self.streams = False
        self.adapted: tuple[str, ...] = ()

    @property
    def cap(self) -> str | None:
        """The name under which the server is told the longest answer; None: it takes none."""
        return next((name for name in CAPS if name not in self.refused), None)

    def body(self, messages: Messages, max_tokens: int | None = None, **options: Any) -> dict[str, Any]:
        """A request's messages and options, as the server takes them. None stands for what is left to the server."""
        if self.cap:
            options[self.cap] = max_tokens
        if self.streams:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        kept = {key: value for key, value in options.items() if value is not None and key not in self.refused}
        return {"messages": self._messages(messages), **kept}

    def learn(self, said: Words, sent: Mapping[str, Any]) -> bool:
        """Whether what an error says is a reason to ask the same again in another form, now that it is known."""
        roles = [message["role"] for message in sent["messages"]]
        if (SYSTEM.search(said.message) or ALTERNATE.search(said.message)) and self._learn_roles(said.message, roles):
            return True
        if STREAM.search(said.message) and "stream_options" not in said.message and "stream" not in sent:
            self._note("the server only streams", "streamed", streams=True)
            return True
        names = [name for name in OPTIONAL if name in sent]
        wrong = [name for name in names if said.param.split(".")[-1].split("[")[0] == name]
        wrong = wrong or [name for name in names if re.search(rf"(?<![\w-]){name}(?![\w-])", said.message)]
        for name in wrong:
            self.drop(name, "refuses")
        return bool(wrong)

    def drop(self, name: str, does: str) -> None:
        """Leave an option out from now on. does: "refuses" or "ignores"."""
        if name in self.refused:
            return
        self.refused.add(name)
        if name in CAPS and self.cap:
            self._note(f"the server {does} {name}", f"{self.cap} instead of {name}")
        else:
            self._note(f"the server {does} {name}", f"{name} left out")

    def _learn_roles(self, message: str, roles: Sequence[str]) -> bool:
        if NO_SYSTEM.search(message) and "system" in roles:
            self._note("the server takes no system message", "system message put into the user's", no_system=True)
        elif ALTERNATE.search(message) and any(a == b for a, b in zip(roles, roles[1:], strict=False)):
            roles_merged = ("system", "user", "assistant")
            self._note("the server wants roles to alternate", "messages of one role merged", merged=roles_merged)
        elif roles[:2] == ["system", "system"]:
            self._note("the server takes one system message", "system messages merged", merged=("system",))
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
