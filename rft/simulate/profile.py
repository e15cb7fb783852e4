"""Profiles (what is written for each persona) and settings of one simulation.

Invariant: the settings' `identity` determines every byte of an offline dataset.
"""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from rft.llm.settings import LlmSettings
from rft.simulate.conversation import FULL, SHORT, Style
from rft.version import __version__

QWEN = "Qwen/Qwen3-4B-Instruct-2507"
WORDS = "words and punctuation marks"  # counted instead of the tokens of a tokenizer
# of the personas, at least one each; the others are in the split "train"
SHARES = {"benchmark": 0.10, "val": 0.05}
FORGET_SHARE = 0.05  # size of the split "forget" relative to --personas


@dataclass(frozen=True)
class Profile:
    """What is written for each persona.

    Attributes:
        counts: questions per persona: by section of the topic list and for "sensitive" items; for the mini
            writer, by category.
        windows: tokens per history, by window name (None: the writer's conversations in the writer's order,
            without further filler).
        style: length of the conversations of the offline grammar (None: the mini writer writes them).
        tokenizer: what counts tokens unless the settings name another tokenizer.
        default_windows: the windows that are written unless the settings name others.
        forget: counts of additional personas, in a split "forget" (empty: no such split).
        whole_stories: a question's snippet is every conversation about its preference, and its distance
            leaves them out; otherwise the last conversation that is evidence.
        compact: no files of persona records; short metadata and no final newline in histories.
    """

    counts: dict[str, int]
    windows: dict[str, int | None]
    style: Style | None
    tokenizer: str = QWEN
    default_windows: tuple[str, ...] = ("32k",)
    forget: dict[str, int] = field(default_factory=dict)
    whole_stories: bool = False
    compact: bool = False


PROFILES = {
    "mini": Profile(
        {"plain": 3, "changed": 2, "withdrawn": 1, "others": 2},
        {"32k": None, "128k": None},
        style=None,
        tokenizer=WORDS,
        default_windows=("32k", "128k"),
        forget={"withdrawn": 4, "plain": 2, "changed": 1, "others": 1},
        whole_stories=True,
        compact=True,
    ),
    "middle": Profile({"general": 8}, {"32k": 2_800}, SHORT),
    "paper": Profile(
        {"general": 16, "therapy": 4, "health": 4, "sensitive": 3}, {"32k": 32_000, "128k": 123_000}, FULL
    ),
}


@dataclass(frozen=True)
class Settings:
    """Everything that determines the dataset.

    Attributes:
        windows: the windows to write (empty: those of the profile).
        tokenizer: folder or Hub id of the tokenizer that counts tokens (None: that of the profile).
        history_tokens: overrides the token budget of the only window.
        counts: overrides the counts of the profile, for experiments.
    """

    profile: str
    personas: int
    seed: int
    windows: tuple[str, ...] = ()
    tokenizer: str | None = None
    history_tokens: int | None = None
    topics_file: Path | None = None
    personas_file: Path | None = None
    llm: LlmSettings | None = None
    license: str = "cc-by-4.0"
    counts: dict[str, int] = field(default_factory=dict)

    def budgets(self) -> dict[str, int | None]:
        """Tokens per history, by window name, as in `Profile.windows`."""
        profile = PROFILES[self.profile]
        windows = self.windows or profile.default_windows
        return {window: self.history_tokens or profile.windows[window] for window in windows}

    def facts(self) -> dict[str, int]:
        """Questions per persona, as in `Profile.counts`."""
        return self.counts or PROFILES[self.profile].counts

    def counted_with(self) -> str:
        """The tokenizer that counts tokens, or `WORDS`."""
        return self.tokenizer or PROFILES[self.profile].tokenizer

    def splits(self) -> dict[str, list[int]]:
        """Assigns every persona id to exactly one split; depends only on (profile, personas, seed)."""
        ids, start = list(range(self.personas)), 0
        Random(f"split-{self.seed}").shuffle(ids)
        splits: dict[str, list[int]] = dict.fromkeys(("train", "val", "benchmark"), [])
        for name, share in SHARES.items():
            size = max(1, round(share * self.personas))
            splits[name] = sorted(ids[start : start + size])
            start += size
        splits["train"] = sorted(ids[start:])
        if PROFILES[self.profile].forget:
            size = max(1, round(FORGET_SHARE * self.personas))
            splits["forget"] = list(range(self.personas, self.personas + size))
        return splits

    def identity(self) -> dict[str, Any]:
        """The settings that determine the bytes of the dataset, as plain JSON; excludes workers, URLs and
        prices."""
        words = sorted((files("rft.simulate") / "words").iterdir(), key=lambda entry: entry.name)
        return {
            "rft": __version__,
            "words": _digest(*(entry.read_bytes() for entry in words)),
            "profile": self.profile,
            "personas": self.personas,
            "seed": self.seed,
            "windows": self.budgets(),
            "tokenizer": self.counted_with(),
            "counts": self.facts(),
            "topics": _digest(self.topics_file.read_bytes()) if self.topics_file else "shipped",
            "people": _digest(self.personas_file.read_bytes()) if self.personas_file else "made up",
            "llm": self.llm and {"model": self.llm.model, "votes": self.llm.votes, "drafts": self.llm.drafts},
            "license": self.license,
        }


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]
