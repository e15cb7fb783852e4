"""What real servers of the OpenAI chat API do differently, and what `rft evaluate` must make of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peculiar import Call, Play, pages, says

LONGEST = "max_completion_tokens"
OUT_OF_ROOM = (
    "This model's maximum context length is 4096 tokens. However, your messages resulted in 5012 tokens."
)


@dataclass(frozen=True)
class Peculiarity:
    """play: what it does with a call; options: of the commands. Of `rft evaluate` there: code, its exit code;
    said: a part of what it says; lost: questions without an answer; has: what stands in summary.json, dots
    for keys in keys. memory, judge: the exit codes of `rft memory write` and of an evaluation that it judges
    (None: as `code`)."""

    play: Play
    code: int = 0
    said: str = ""
    lost: int = 0
    has: dict[str, Any] = field(default_factory=dict)
    memory: int | None = None
    judge: int | None = None
    options: tuple[str, ...] = ()


def once(trouble: Play) -> Play:
    """Each prompt's first call goes wrong."""
    return lambda call: trouble(call) if call.number == 0 else call.answer()


def at(place: int, trouble: Play) -> Play:
    """All calls with one of the prompts go wrong."""
    return lambda call: trouble(call) if call.place == place else call.answer()


def unless(wrong: Callable[[dict[str, Any]], Any], trouble: Play) -> Play:
    """Calls whose body is wrong are refused."""
    return lambda call: trouble(call) if wrong(call.body) else call.answer()


def has(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda body: name in body


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body["messages"]]


def extra(name: str) -> Play:
    """As FastAPI refuses a field that it does not know."""
    detail = [
        {
            "type": "extra_forbidden",
            "loc": ["body", name],
            "msg": "Extra inputs are not permitted",
            "input": 0,
        }
    ]
    return lambda call: call.send({"detail": detail}, 422)


def in_turn(*names: str) -> Play:
    """Refuses the first of these fields that a call has."""

    def play(call: Call) -> None:
        found = next((name for name in names if name in call.body), None)
        (
            call.refuse(f"Unsupported parameter: '{found}' is not supported with this model.")
            if found
            else call.answer()
        )

    return play


def heedless(*names: str) -> Play:
    """Writes 50,000 tokens unless a limit comes under one of these names."""

    def play(call: Call) -> None:
        heeds = any(name in call.body for name in names)
        call.answer(usage={"prompt_tokens": 400, "completion_tokens": 7 if heeds else 50_000})

    return play


def thinks(**message: Any) -> Play:
    """With the reasoning apart."""

    def play(call: Call) -> None:
        said = says(call.body["messages"]).removeprefix("<think>So.</think>")
        call.answer(
            {"content": said}
            | {key: value(said) if callable(value) else value for key, value in message.items()}
        )

    return play


def moved(status: int) -> Play:
    def play(call: Call) -> None:
        if call.path.startswith("/new"):
            call.answer()
        else:
            call.text("", "text/plain", status, {"Location": "/new/v1/chat/completions"})

    return play


def only_streams(call: Call) -> None:
    if call.body.get("stream"):
        call.stream()
    else:
        call.refuse(
            "This model only support stream mode, please enable the stream parameter to access the model."
        )


def hang(call: Call) -> None:
    call.server.closing.wait(3)
    call.close_connection = True


def echo_key(call: Call) -> None:
    call.answer(
        {"content": f"{says(call.body['messages'])[:18]}{call.headers['Authorization']}\\boxed{{a}}\n- a: b."}
    )


def both_names(call: Call) -> None:
    call.answer(
        choices=[
            {"index": i, "finish_reason": "stop", "message": {"content": says(call.body["messages"])}}
            for i in (0, 1)
        ]
    )


RIGHT = {"unparsed_rate": 0, "format_rate": 1}
UNREAD = {"unparsed_rate": 1, "refused_rate": 0}
REFUSED = {"unparsed_rate": 0, "refused_rate": 1}
SETTLED = ("--temperature", "1")

PECULIARITIES: dict[str, Peculiarity] = {
    "plain": Peculiarity(lambda call: call.answer(), has=RIGHT | {"usage.answers_without_usage": 0}),
    # prompts that are too long
    "too long, first, with a code": Peculiarity(
        at(0, lambda call: call.refuse(OUT_OF_ROOM, code="context_length_exceeded", param="messages")),
        1,
        "too long for played .* choose --context retrieval",
        1,
        {"too_long": 1},
        memory=2,
        judge=1,
    ),
    "too long, in the middle, bare words": Peculiarity(
        at(1, lambda call: call.send({"message": OUT_OF_ROOM}, 400)),
        1,
        "1 too long for the model",
        1,
        {"too_long": 1},
        memory=2,
        judge=1,
    ),
    "too long, a proxy's 413": Peculiarity(
        at(0, lambda call: call.text("<html>413 Request Entity Too Large</html>", "text/html", 413)),
        1,
        "too long",
        1,
        memory=2,
        judge=1,
    ),
    "too long, a server's 500": Peculiarity(
        at(0, lambda call: call.refuse("the request exceeds the available context size", 500)),
        1,
        "too long",
        1,
        memory=2,
        judge=1,
    ),
    "everything too long": Peculiarity(
        lambda call: call.refuse(OUT_OF_ROOM),
        2,
        "none of 4 questions was answered \\(4 were too long",
        judge=1,
    ),
    # parameters that are refused
    "temperature, with code and param": Peculiarity(
        unless(
            has("temperature"),
            lambda call: call.refuse("Unsupported value", code="unsupported_value", param="temperature"),
        ),
        said="refuses temperature: temperature left out",
        has=RIGHT | {"adapted": {"temperature left out": 4}},
        judge=0,
    ),
    "temperature, bare words": Peculiarity(
        unless(
            has("temperature"),
            lambda call: call.send({"error": "'temperature' does not support 0 with this model."}, 400),
        ),
        said="temperature left out",
        has={"adapted": {"temperature left out": 4}},
    ),
    "seed, 422": Peculiarity(
        unless(has("seed"), extra("seed")), said="seed left out", options=SETTLED, has=RIGHT
    ),
    "max_completion_tokens, 422": Peculiarity(
        unless(has(LONGEST), extra(LONGEST)), said="max_tokens instead of max_completion_tokens", has=RIGHT
    ),
    "max_completion_tokens, Gemini's list": Peculiarity(
        unless(
            has(LONGEST),
            lambda call: call.send(
                [{"error": {"code": 400, "message": f'Unknown name "{LONGEST}": Cannot find field.'}}], 400
            ),
        ),
        said="max_tokens instead of",
        has=RIGHT,
    ),
    "no limit under any name": Peculiarity(
        in_turn(LONGEST, "max_tokens"), said="max_tokens left out", has=RIGHT
    ),
    "all parameters, one after the other": Peculiarity(
        in_turn("temperature", "seed", "max_completion_tokens"),
        said="seed left out",
        options=SETTLED,
        has=RIGHT,
    ),
    "logprobs and n": Peculiarity(in_turn("logprobs", "top_logprobs", "n"), has=RIGHT | {"adapted": {}}),
    "a limit that is too large": Peculiarity(
        lambda call: call.refuse(
            "max_completion_tokens is too large: 64. This model supports at most 32 completion tokens."
        ),
        2,
        "does not support answers of this length .* --max-new-tokens",
        judge=1,
    ),
    # parameters that are ignored
    "ignores max_completion_tokens": Peculiarity(
        heedless("max_tokens"), said="wrote 50,000 tokens but only 64 were allowed", has=RIGHT
    ),
    "ignores every limit": Peculiarity(heedless(), said="it ignores max_completion_tokens", has=RIGHT),
    "stop at the very limit": Peculiarity(
        lambda call: call.answer(
            usage={"prompt_tokens": 400, "completion_tokens": call.body["max_completion_tokens"]}
        ),
        has={"cut_off_rate": 1},
    ),
    "cuts prompts without a word": Peculiarity(
        lambda call: call.answer(usage={"prompt_tokens": 9, "completion_tokens": 7}),
        said="truncate long prompts silently",
        has=RIGHT,
    ),
    # messages that are refused
    "one system message": Peculiarity(
        unless(
            lambda body: roles(body)[:2] == ["system"] * 2,
            lambda call: call.refuse("System message must be at the beginning."),
        ),
        said="system messages merged",
        has=RIGHT | {"adapted": {"system messages merged": 4}},
    ),
    "roles alternate": Peculiarity(
        unless(
            lambda body: any(a == b for a, b in zip(roles(body), roles(body)[1:], strict=False)),
            lambda call: call.refuse(
                "Conversation roles must alternate user/assistant/user/assistant/...", 500
            ),
        ),
        said="messages of one role merged",
        has=RIGHT,
    ),
    "no system message": Peculiarity(
        unless(lambda body: "system" in roles(body), lambda call: call.refuse("System role not supported")),
        said="system message put into the user's",
        has=RIGHT,
    ),
    # answers in other forms
    "parts, thinking among them": Peculiarity(
        thinks(
            content=lambda said: [
                {"type": "thinking", "thinking": [{"type": "text", "text": "So."}]},
                {"type": "text", "text": said},
            ]
        ),
        has=RIGHT,
    ),
    "one part": Peculiarity(
        thinks(content=lambda said: {"type": "text", "text": f"<think>So.</think>{said}"}), has=RIGHT
    ),
    "reasoning_content": Peculiarity(thinks(reasoning_content="So."), has=RIGHT),
    "reasoning": Peculiarity(thinks(reasoning="So."), has=RIGHT),
    "reasoning_details": Peculiarity(
        thinks(reasoning_details=[{"type": "reasoning.text", "text": "So."}]), has=RIGHT
    ),
    "a refusal": Peculiarity(
        lambda call: call.answer({"content": None, "refusal": "I cannot."}),
        said="100.0% refused",
        has=REFUSED | {"endings.refusal": 4},
        judge=1,
    ),
    "filtered answers": Peculiarity(
        lambda call: call.answer({"content": ""}, finish="content_filter"),
        has=REFUSED | {"endings.content_filter": 4},
        judge=1,
    ),
    "a filtered prompt": Peculiarity(
        at(
            0,
            lambda call: call.refuse(
                "The prompt triggered our content management policy.", code="content_filter"
            ),
        ),
        has={"refused_rate": 0.25, "endings.content_filter": 1},
        judge=1,
    ),
    "tool calls": Peculiarity(
        lambda call: call.answer(
            {
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            finish="tool_calls",
        ),
        has=UNREAD | {"endings.tool_calls": 4},
        judge=1,
    ),
    "null content": Peculiarity(
        lambda call: call.answer({"content": None}), has=UNREAD | {"endings.empty": 4}, judge=1
    ),
    "two choices": Peculiarity(both_names, has=RIGHT),
    "odd finish reason": Peculiarity(
        lambda call: call.answer(finish="eos_token"), has=RIGHT | {"cut_off_rate": 0}
    ),
    "no finish reason": Peculiarity(lambda call: call.answer(finish=None), has=RIGHT),
    "another word for length": Peculiarity(
        lambda call: call.answer(finish="MAX_TOKENS"), has={"cut_off_rate": 1}
    ),
    "only streams": Peculiarity(
        only_streams, said="only streams: streamed", has=RIGHT | {"usage.answers_without_usage": 0}
    ),
    "streams unasked": Peculiarity(
        lambda call: call.stream(), has=RIGHT | {"usage.answers_without_usage": 4}
    ),
    "wrong content type": Peculiarity(lambda call: call.answer(kind="text/plain"), has=RIGHT),
    # counts that are none
    "no usage": Peculiarity(
        lambda call: call.answer(usage=None),
        has=RIGHT
        | {"usage.input_tokens": None, "usage.output_tokens": None, "usage.answers_without_usage": 4},
    ),
    "usage of zero": Peculiarity(
        lambda call: call.answer(usage={"prompt_tokens": 0, "completion_tokens": 0}),
        has={"input_tokens_per_question": None},
    ),
    "usage that is no number": Peculiarity(
        lambda call: call.answer(usage={"prompt_tokens": float("nan"), "completion_tokens": "7"}),
        has={"usage.input_tokens": None},
    ),
    # calls that go wrong once
    "429 with Retry-After": Peculiarity(
        once(lambda call: call.send({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.05"})),
        has={"usage.failures.429": 4},
    ),
    "500": Peculiarity(once(lambda call: call.refuse("oops", 500)), has={"usage.failures.500": 4}),
    "no answer in time": Peculiarity(
        at(0, once(hang)), has={"usage.failures.timeout": 1}, options=("--timeout", "1")
    ),
    "truncated JSON": Peculiarity(
        once(lambda call: call.text('{"choices": [{"mess')), has={"usage.failures.malformed": 4}
    ),
    "deep JSON": Peculiarity(
        once(lambda call: call.text("[" * 100_000)), has={"usage.failures.malformed": 4}
    ),
    "a page of HTML": Peculiarity(
        once(lambda call: call.text("<html>Bad gateway</html>", "text/html", 502)),
        has={"usage.failures.502": 4},
    ),
    "no choices": Peculiarity(
        once(lambda call: call.send({"choices": []})), has={"usage.failures.malformed": 4}
    ),
    "an error with status 200": Peculiarity(
        once(lambda call: call.send({"error": {"message": "overloaded", "code": 529}})),
        has={"usage.failures.529": 4},
    ),
    "a stream that breaks off": Peculiarity(
        once(lambda call: call.stream(whole=False)), has={"usage.failures.malformed": 4}
    ),
    "connection reset": Peculiarity(once(Call.reset), has={"usage.failures.connection": 4}),
    # nothing works
    "moved, and asks again": Peculiarity(moved(307), has=RIGHT),
    "moved, and forgets what was asked": Peculiarity(
        moved(301), 2, "the server has moved to .*/new/v1; use that", judge=1
    ),
    "unknown model": Peculiarity(
        lambda call: call.refuse("The model does not exist", 404), 2, "no model 'played'", judge=1
    ),
    "wrong key": Peculiarity(
        lambda call: call.refuse("no", 401), 2, "refuses the key in the environment variable MY_KEY", judge=1
    ),
    "no money": Peculiarity(
        lambda call: call.refuse("Insufficient Balance", 402), 2, "quota is used up", judge=1
    ),
    "refuses everything": Peculiarity(
        lambda call: call.refuse(f"No, {call.headers['Authorization']}."),
        2,
        "no call has worked \\(refused: 400 Bad Request: No, Bearer \\*\\*\\*",
        judge=1,
    ),
    "pages of HTML only": Peculiarity(pages, 2, "not from an OpenAI-compatible API", judge=1),
    "tells the key": Peculiarity(echo_key, has={"format_rate": 1}, judge=1),
}
