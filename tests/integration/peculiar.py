"""A server of the OpenAI chat API that handles every call as a test tells it (`peculiarities.py` has a list).

What it has answered in full is counted by prompt: an answer that is requested twice would be paid for twice.
"""

import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from replies import JSON, Replies

Play = Callable[["Call"], None]


def says(messages: list[dict[str, str]]) -> str:
    """What the model says: a judge's verdict, a memory or an answer, by what it is asked."""
    text = "\n".join(message["content"] for message in messages)
    if "You judge whether" in text:
        return "It does.\nVERDICT: YES"
    if "Rewrite the memory:" in text:
        return "- music: likes jazz.\n- food: likes figs."
    return "<think>So.</think>" + ("\\boxed{a}" if "multiple-choice" in text else "Have some tea.")


class Call(Replies):
    """One request; what a peculiarity does with it are calls of these methods."""

    server: "Peculiar"
    body: dict[str, Any]

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("Authorization"))
        if self.server.play is pages:
            pages(self)
        elif self.path.endswith("/models"):
            self.send(
                {
                    "object": "list",
                    "data": [{"id": "played", "object": "model", "created": 0, "owned_by": "test"}],
                }
            )
        else:
            self.send({"error": {"message": "method not allowed"}}, 405)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.keys.add(self.headers.get("Authorization"))
            self.server.bodies.append(self.body)
            self.number = self.server.times[self.prompt]  # of this prompt's calls, from 0
            self.server.times[self.prompt] += 1
            self.place = list(self.server.times).index(self.prompt)  # of this prompt among all, from 0
        self.server.play(self)

    @property
    def prompt(self) -> str:
        """The same however messages are merged."""
        return "".join("".join(message["content"].split()) for message in self.body["messages"])

    def answer(
        self,
        message: Any = None,
        usage: Any = True,
        finish: Any = "stop",
        choices: Any = None,
        kind: str = JSON,
    ) -> None:
        """In full, and so to be paid; message: what replaces the words; usage: True for a right count, None
        for none."""
        with self.server.lock:
            self.server.paid[self.prompt] += 1
        self.send(self.response(message, usage, finish, choices), kind=kind)

    def response(
        self, message: Any = None, usage: Any = True, finish: Any = "stop", choices: Any = None
    ) -> dict[str, Any]:
        read = sum(len(m["content"].split()) for m in self.body["messages"])
        message = {
            "role": "assistant",
            **(message if message is not None else {"content": says(self.body["messages"])}),
        }
        choices = [{"index": 0, "finish_reason": finish, "message": message}] if choices is None else choices
        response = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": self.body["model"],
            "choices": choices,
        }
        if usage is True:
            usage = {"prompt_tokens": read, "completion_tokens": 7, "total_tokens": read + 7}
        return response | ({"usage": usage} if usage is not None else {})

    def stream(self, whole: bool = True) -> None:
        """In pieces of a few characters; whole: to the end."""
        text = says(self.body["messages"])
        pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
        events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
        events += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
        if whole:
            with self.server.lock:
                self.server.paid[self.prompt] += 1
            events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
            if self.body.get("stream_options"):
                events += [{"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 7}}]
        lines = [
            ": keep alive",
            *(f"data: {json.dumps(event)}" for event in events),
            *(["data: [DONE]"] if whole else []),
        ]
        self.text("\n\n".join(lines) + "\n\n", "text/event-stream")

    def refuse(self, message: str, status: int = 400, **more: Any) -> None:
        """In OpenAI's form of an error."""
        self.send({"error": {"message": message, "type": "invalid_request_error", **more}}, status)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class Peculiar(ThreadingHTTPServer):
    """keys: the Authorization headers; bodies: of all calls; times: calls by prompt; paid: those answered in
    full."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, play: Play):
        super().__init__(("127.0.0.1", 0), Call)
        self.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gives up is none of its business
        self.play, self.lock, self.closing = play, threading.Lock(), threading.Event()
        self.keys: set[str | None] = set()
        self.bodies: list[dict[str, Any]] = []
        self.times: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextlib.contextmanager
def peculiar(play: Play) -> Iterator[Peculiar]:
    server = Peculiar(play)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


def pages(call: Call) -> None:
    call.text("<html>Welcome</html>", "text/html")
