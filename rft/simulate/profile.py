"""Profiles (amount of text per persona) and settings of one simulation."""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rft import __version__
from rft.simulate.conversation import FULL, SHORT, Style

QWEN = "Qwen/Qwen3-4B-Instruct-2507"


@dataclass(frozen=True)
class Profile:
    """Amount of text per persona.

    Attributes:
        counts: questions per persona, by section of the topic list and for "sensitive" items.
        style: length of the conversations.
        windows: tokens per history, by window name.
    """

    counts: dict[str, int]
    style: Style
    windows: dict[str, int]


PROFILES = {
    "paper": Profile(
        {"general": 16, "therapy": 4, "health": 4, "sensitive": 3}, FULL, {"32k": 32_000, "128k": 123_000}
    ),
    "middle": Profile({"general": 8}, SHORT, {"32k": 2_800}),
}


@dataclass(frozen=True)
class LlmSettings:
    """An LLM behind an OpenAI-compatible URL.

    Attributes:
        base_url, model, key_variable, price, attempts, timeout: as in `rft.models.endpoint.Endpoint`.
        budget: maximum dollars to spend.
        max_new_tokens: maximum tokens per response.
        votes: judges per check of a question.
        drafts: maximum requests for each text until a response is usable.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    price: tuple[float, float] | None = None
    budget: float | None = None
    attempts: int = 6
    timeout: float = 600.0
    max_new_tokens: int = 4096
    votes: int = 3
    drafts: int = 5


@dataclass(frozen=True)
class Settings:
    """Everything that determines the dataset. `history_tokens` overrides the token budget of the only
    window."""

    profile: str
    personas: int
    seed: int
    windows: tuple[str, ...] = ("32k",)
    tokenizer: str = QWEN
    history_tokens: int | None = None
    topics_file: Path | None = None
    personas_file: Path | None = None
    llm: LlmSettings | None = None
    license: str = "cc-by-4.0"
    # overrides the counts of the profile, for experiments
    counts: dict[str, int] = field(default_factory=dict)

    def budgets(self) -> dict[str, int]:
        """Tokens per history, by window name."""
        sizes = PROFILES[self.profile].windows
        return {window: self.history_tokens or sizes[window] for window in self.windows}

    def facts(self) -> dict[str, int]:
        """Questions per persona, by section."""
        return self.counts or PROFILES[self.profile].counts

    def identity(self) -> dict[str, Any]:
        """The settings that determine the bytes of the dataset, as plain JSON; excludes workers, URLs and
        prices."""
        return {
            "rft": __version__,
            "words": _digest(*_word_files()),
            "profile": self.profile,
            "personas": self.personas,
            "seed": self.seed,
            "windows": self.budgets(),
            "tokenizer": self.tokenizer,
            "counts": self.facts(),
            "topics": _digest(self.topics_file.read_bytes()) if self.topics_file else "shipped",
            "people": _digest(self.personas_file.read_bytes()) if self.personas_file else "made up",
            "llm": (
                {"model": self.llm.model, "votes": self.llm.votes, "drafts": self.llm.drafts}
                if self.llm
                else None
            ),
            "license": self.license,
        }


def _word_files() -> list[bytes]:
    folder = files("rft.simulate") / "words"
    return [entry.read_bytes() for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)]


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]
