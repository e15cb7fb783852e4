"""Parses the responses of an OpenAI-compatible chat API.

Invariant: every response body becomes a `Reply`, a `ServerSaid` (the server's error message) or `Malformed`;
nothing is guessed. A count that the server does not report is None, never 0. A body may be one JSON object or
server-sent events; reasoning, refusals and content parts are found in all the places where servers put them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REFUSED = ("refusal", "content_filter")
"""Values of `Reply.ending` if the model or the server refused to answer."""

# finish reasons, in lower case
FILTERED = ("content_filter", "safety", "prohibited_content", "recitation", "blocklist")
CUT_OFF = ("length", "max_tokens", "max_length", "model_length", "max_output_tokens")
BROKEN = ("error", "abort", "malformed_function_call")
REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
TEXT_OF_PART = ("text", "refusal", "thinking", "reasoning", "summary", "content")
# keys of an error's text
MESSAGES = ("message", "msg", "detail", "error", "title", "reason", "loc", "param", "code", "type")
MOST_TOKENS = 10**9  # a larger count is treated as missing
LONGEST_SAID = 1000  # maximum characters of an error message that are kept


class Malformed(ValueError):
    """The body is not a response of a chat API."""


class ServerSaid(Exception):
    """An error in the body of a response with status 200. `code` is the status that it corresponds to."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Reply:
    """The reply of a model.

    Attributes:
        text: the answer, after its reasoning in think tags, if any; the text of a refusal.
        input_tokens: as counted by the server (None: not reported).
        cached_tokens: prompt tokens read from the server's cache (None: not reported).
        output_tokens: as counted by the server (None: not reported).
        finished: False if the text was cut off at the maximum length.
        ending: "" for an answer, otherwise the reason why there is none: refusal, content_filter, tool_calls,
            empty.
        cost: dollars.
        failures: number of failed attempts before this reply, by kind.
        adapted: how the request was changed because the server did not accept it.
    """

    text: str
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finished: bool = True
    ending: str = ""
    cost: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    adapted: tuple[str, ...] = ()


def read(body: str) -> Reply:
    """Parses the reply in a response body.

    Raises:
        Malformed: the body is not a response of a chat API.
        ServerSaid: the body contains an error.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = _from_events(body)
    if not isinstance(value, Mapping):
        raise Malformed("no JSON object in the response")
    given = value.get("choices") or []
    choices = [c for c in given if isinstance(c, Mapping)] if _is_list(given) else []
    if not choices:
        if value.get("error"):
            code = value["error"].get("code") if isinstance(value["error"], Mapping) else None
            raise ServerSaid(words(body).message, code if isinstance(code, int) else 500)
        raise Malformed("no choices in the response")
    choice = choices[0]  # only one was requested; ignore others
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise Malformed("no message in the response")
    reason = str(choice.get("finish_reason") or "").lower()
    if reason in BROKEN:
        raise ServerSaid(f"the generation ended with {reason!r}", 500)
    thought, text = _texts(message)
    refusal = _joined(message.get("refusal"))
    usage = value.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    tokens_out = _count(usage, "completion_tokens")
    calls = message.get("tool_calls") or message.get("function_call")
    ending = "content_filter" if reason in FILTERED else "refusal" if refusal else ""
    if not ending and not text.strip() and reason not in CUT_OFF:
        ending = "tool_calls" if calls else "empty"
    unsaid = not (text or thought)
    text = text or refusal
    return Reply(
        text=f"<think>{thought}</think>{text}" if thought else text,
        input_tokens=_count(usage, "prompt_tokens") or None,  # a prompt has tokens, so 0 means not reported
        cached_tokens=_count(details, "cached_tokens"),
        output_tokens=tokens_out if tokens_out or unsaid else None,
        finished=reason not in CUT_OFF,
        ending=ending,
    )


@dataclass(frozen=True)
class Words:
    """The text of a server's error: its message, and the parameter and code that it names, if any."""

    message: str
    param: str = ""
    code: str = ""


def words(body: str) -> Words:
    """Extracts the text of an error body in any format, without the parts that quote the request."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return Words(" ".join(body.split())[:LONGEST_SAID])
    texts = list(_error_texts(value))
    first = {key: text for key, text in reversed(texts)}
    message = " ".join(dict.fromkeys(text for key, text in texts if key not in ("param", "code", "type")))
    codes = " ".join(first[key] for key in ("code", "type") if key in first)
    return Words(message[:LONGEST_SAID] or codes, first.get("param", ""), codes)


def _error_texts(value: Any, key: str = "error") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in MESSAGES:
                yield from _error_texts(inner, name)
    elif _is_list(value):
        for inner in value:
            yield from _error_texts(inner, key)
    elif isinstance(value, str) and value:
        yield key, " ".join(value[: 4 * LONGEST_SAID].split())


def _texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """Returns (reasoning, text)."""
    thought = next((reasoning for name in REASONING if (reasoning := _joined(message.get(name)))), "")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return thought, content or ""
    parts = [content] if isinstance(content, Mapping) else list(content) if _is_list(content) else None
    if parts is None or any(not isinstance(part, (str, Mapping)) for part in parts):
        raise Malformed("the message's content is neither text nor a list of parts")
    inner = "".join(_joined(part) for part in parts if _is_thought(part))
    return inner or thought, "".join(_joined(part) for part in parts if not _is_thought(part))


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and str(part.get("type")).startswith(("thinking", "reasoning"))


def _joined(value: Any) -> str:
    """Returns the text of a string, a part, or a list of them; "" if there is none (an image, redacted
    reasoning)."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((text for name in TEXT_OF_PART if (text := _joined(value.get(name)))), "")
    return "".join(map(_joined, value)) if _is_list(value) else ""


def _from_events(body: str) -> dict[str, Any]:
    """Joins a stream of server-sent events into one response."""
    events = [line[5:].strip() for line in body.splitlines() if line.startswith("data:")]
    message: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    reason = None
    for event in events:
        if event == "[DONE]" or not event:
            continue
        try:
            chunk = json.loads(event)
        except ValueError:
            raise Malformed("the stream ended early") from None
        if not isinstance(chunk, Mapping):
            raise Malformed("the stream contains something other than answer chunks")
        whole |= {key: chunk[key] for key in ("usage", "error") if chunk.get(key)}
        for choice in chunk.get("choices") or []:
            if not isinstance(choice, Mapping) or choice.get("index"):
                continue
            reason = choice.get("finish_reason") or reason
            delta = choice.get("delta") or choice.get("message")
            for name, value in delta.items() if isinstance(delta, Mapping) else ():
                if value is not None:
                    message[name] = _longer(message.get(name), value)
    if not events:
        raise Malformed("the response is neither JSON nor an event stream")
    if "error" in whole:
        return {"error": whole["error"]}
    if reason is None and "[DONE]" not in events:
        raise Malformed("the stream ended early")
    if not message:
        return {}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": whole.get("usage")}


def _longer(before: Any, more: Any) -> Any:
    if before is None:
        return more
    if type(before) is type(more) and isinstance(before, (str, list)):
        return before + more
    return [*(before if _is_list(before) else [before]), *(more if _is_list(more) else [more])]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < MOST_TOKENS:
        return None
    return int(value)
