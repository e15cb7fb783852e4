"""The journal: responses that were paid for, on disk.

Invariant: a response that was added is there for every later process, whatever happened to this one. A last
line that was cut off by a kill is removed.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from reward.mcq import answer_part
from rft.models.reply import REFUSED, Reply

FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.DOTALL)


class Journal:
    """Responses to the requests about one person, as a JSON Lines file. `answers`: entries by key."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, dict[str, Any]] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            entry = json.loads(line)
            self.answers[entry["key"]] = entry

    def add(self, key: str, reply: Reply) -> dict[str, Any]:
        """Appends a reply, flushes it to disk, and returns its entry."""
        content = answer_part(reply.text).strip()
        entry = {
            "key": key,
            "content": fence[1] if (fence := FENCE.match(content)) else content,
            "refusal": (reply.text or reply.ending) if reply.ending in REFUSED else "",
            "finished": reply.finished,
            "tokens": [reply.input_tokens, reply.output_tokens],
            "cost": reply.cost,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.answers[key] = entry
        return entry


def usage(entry: dict[str, Any]) -> dict[str, float]:
    """Usage of one response: tokens as reported by the server, and USD (0 without prices)."""
    tokens = zip(("prompt_tokens", "completion_tokens"), entry["tokens"], strict=True)
    counted = {name: count for name, count in tokens if count is not None}
    unknown = {} if len(counted) == 2 else {"calls_without_usage": 1.0}
    return {"calls": 1.0, "cost_usd": entry["cost"]} | counted | unknown
