"""An OpenAI-compatible server on a real port that plays a model from a script, failures included."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from replies import Replies


class Server(ThreadingHTTPServer):
    """say(messages) is what it answers. trouble(number of the call, from 0) is None, "hang", "malformed",
    "html", "empty" or (status, headers). requests: the bodies of the chat calls; keys: the Authorization
    headers."""

    daemon_threads = True

    def __init__(
        self, say: Callable[[list[dict[str, str]]], Any], trouble: Callable[[int], Any] = lambda n: None
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gives up is none of its business
        self.say, self.trouble = say, trouble
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.in_flight, self.most_in_flight = 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(Replies):
    server: Server

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("Authorization"))
        self.send(
            {
                "object": "list",
                "data": [{"id": "played", "object": "model", "created": 0, "owned_by": "test"}],
            }
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if self.path.endswith("/embeddings"):
            vectors = [
                {"object": "embedding", "index": i, "embedding": embedding(text)}
                for i, text in enumerate(body["input"])
            ]
            self.send(
                {
                    "object": "list",
                    "model": body["model"],
                    "data": vectors,
                    "usage": {"prompt_tokens": 1, "total_tokens": 1},
                }
            )
            return
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.times.append(time.monotonic())
            server.keys.add(self.headers.get("Authorization"))
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            self.play(body, server.trouble(number))
        finally:
            with server.lock:
                server.in_flight -= 1

    def play(self, body: dict[str, Any], trouble: Any) -> None:
        if trouble == "hang":
            self.server.closing.wait(20)
        elif trouble == "malformed":
            self.text('{"choices": [{"mess')
        elif trouble == "html":
            self.text("<html>Welcome</html>", "text/html")
        elif trouble == "empty":
            self.send({"object": "chat.completion", "choices": []})
        elif trouble is not None:
            status, headers = trouble
            text = {"error": {"message": f"no luck with {self.headers.get('Authorization')}", "code": None}}
            self.send(text, status, headers)
        else:
            said = self.server.say(body["messages"])
            message = said if isinstance(said, dict) else {"content": said}
            read = sum(len(m["content"].split()) for m in body["messages"])
            self.send(
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
                    ],
                    "usage": {
                        "prompt_tokens": read,
                        "completion_tokens": 7,
                        "total_tokens": read + 7,
                        "prompt_tokens_details": {"cached_tokens": read // 2},
                    },
                }
            )


def embedding(text: str) -> list[float]:
    """Counts of a few words: enough to tell passages apart."""
    return [float(text.lower().count(word)) for word in ("tea", "chess", "garden")] + [0.01]


@contextlib.contextmanager
def serve(
    say: Callable[[list[dict[str, str]]], Any], trouble: Callable[[int], Any] = lambda n: None
) -> Iterator[Server]:
    server = Server(say, trouble)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
