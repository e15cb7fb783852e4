"""Replies of the tests' HTTP servers."""

import contextlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

JSON = "application/json"


class Replies(BaseHTTPRequestHandler):
    """Handles requests silently; `send` and `text` reply with a complete body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def send(
        self, value: Any, status: int = 200, headers: dict[str, str] | None = None, kind: str = JSON
    ) -> None:
        self.text(json.dumps(value), kind, status, headers)

    def text(
        self, text: str, kind: str = JSON, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = text.encode("utf-8")
        with contextlib.suppress(OSError):  # the client may have given up
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(data)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
