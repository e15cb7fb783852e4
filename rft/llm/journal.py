"""The journal: responses that were paid for, on disk.

Invariant: a response that was added is there for every later process, whatever happened to this one. A last
line that was cut off by a kill is removed. A response that was set aside no longer answers its request, but
counts as paid.
"""

import json
import os
from pathlib import Path
from typing import Any

from reward.mcq import answer_part
from rft.models.reply import REFUSED, Reply
from rft.screen import printable

BEGINNING = 160  # characters of a response that `ways_on` shows


class Journal:
    """Responses to the requests about one person, as a JSON Lines file.

    Attributes:
        answers: entries by key.
        set_aside: entries that could not be used and are asked for again, with the reason under "unusable".
    """

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, dict[str, Any]] = {}
        self.set_aside: list[dict[str, Any]] = []
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            self._take(json.loads(line))

    @property
    def replies(self) -> int:
        """Number of responses."""
        return len(self.answers) + len(self.set_aside)

    def add(self, key: str, reply: Reply) -> dict[str, Any]:
        """Appends a reply, flushes it to disk, and returns its entry."""
        entry = {
            "key": key,
            "content": answer_part(reply.text).strip(),
            "refusal": (reply.text or reply.ending) if reply.ending in REFUSED else "",
            "finished": reply.finished,
            "tokens": [reply.input_tokens, reply.output_tokens],
            "cost": reply.cost,
        }
        self._append(entry)
        return entry

    def put_aside(self, key: str, reason: str) -> None:
        """Makes a later process ask again for a response that could not be used."""
        if key in self.answers:
            self._append({"key": key, "unusable": reason})

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if "unusable" in line:
            self.set_aside.append(self.answers.pop(line["key"]) | line)
        else:
            self.answers[line["key"]] = line


def ways_on(journals: Path, paid: Path) -> str:
    """Returns, for the error of a run of which nothing could be used, what the user can do.

    Args:
        journals: the folder of the journals.
        paid: the folder to remove to start over.
    """
    start_over = f"to start over and pay again, remove {paid}"
    for path in sorted(journals.glob("*.jsonl")):
        for entry in Journal(path).set_aside:
            text = " ".join((entry["content"] or entry["refusal"]).split())
            begins = printable(text[:BEGINNING]) + "..." * (len(text) > BEGINNING) or "no text"
            reply = f"{entry['unusable']}: {begins}"
            return f"the same command asks again for replies such as this one ({reply}); {start_over}"
    return start_over


def usage(entry: dict[str, Any]) -> dict[str, float]:
    """Usage of one response: tokens as reported by the server, and USD (0 without prices)."""
    tokens = zip(("prompt_tokens", "completion_tokens"), entry["tokens"], strict=True)
    counted = {name: count for name, count in tokens if count is not None}
    unknown = {} if len(counted) == 2 else {"calls_without_usage": 1.0}
    return {"calls": 1.0, "cost_usd": entry["cost"]} | counted | unknown
