"""What became of the conversations and messages of one user in one file."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """Numbers of conversations and messages: kept, left out for a reason, and taken with a change.

    A conversation that is left out counts with its messages, so kept + dropped is what the file contains.
    """

    conversations: int = 0
    messages: int = 0
    dropped_conversations: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    mapped: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Adds the counts of another user or file."""
        self.conversations += other.conversations
        self.messages += other.messages
        self.dropped_conversations += other.dropped_conversations
        self.dropped += other.dropped
        self.mapped += other.mapped

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as they are written to import.json; reasons in alphabetical order."""
        return {
            "conversations": {"kept": self.conversations, "dropped": _sorted(self.dropped_conversations)},
            "messages": {
                "kept": self.messages,
                "dropped": _sorted(self.dropped),
                "mapped": _sorted(self.mapped),
            },
        }


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))
