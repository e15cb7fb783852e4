"""Personas: drawn from word lists, or completed from a file of custom descriptions.

Invariant: a persona contains demographics and personality, never its preferences, and depends only on (seed,
persona id) and the description.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from rft.errors import DataError
from rft.simulate.grammar import load
from rft.simulate.persona_record import Persona
from rft.simulate.topics import OPPOSITE


def make_persona(seed: int, persona_id: int, described: dict[str, Any] | None = None) -> Persona:
    """Draws one persona; values in `described` (an entry of `read_personas`) are kept unchanged."""
    people, rng = load("people"), Random(f"persona-{seed}-{persona_id}")
    given = dict(described or {})
    archetype = given.pop("archetype", rng.choice(sorted(OPPOSITE)))
    kind = people["archetypes"][archetype]
    region = _weighted(rng, {name: entry["weight"] for name, entry in people["regions"].items()})
    gender = _weighted(rng, people["gender"])
    either = rng.choice(("women", "men"))
    names = {"woman": "women", "trans woman": "women", "man": "men", "trans man": "men"}.get(gender, either)
    first, last = (rng.choice(people["regions"][region][part].split()) for part in (names, "last"))
    occupation = rng.choice(kind["occupations"])
    article = "An" if occupation[0] in "aei" else "A"
    spoken = ["English", *rng.sample(people["languages"], rng.randint(0, 2))]
    about = {
        "short_persona": f"{article} {occupation} {rng.choice(kind['description'])}",
        "name": f"{first} {last}",
        "age": rng.randint(19, 81),
        "gender": gender,
        "race_ethnicity": region,
        "occupation": occupation,
        "education": rng.choice(people["education"]),
        "household": rng.choice(people["household"]),
        "languages_spoken": spoken,
        "personality": {"traits": rng.sample(kind["traits"], 2), "values": rng.sample(kind["values"], 2)},
    }
    return Persona(persona_id, {**about, **given}, archetype)


def read_personas(path: Path) -> list[dict[str, Any]]:
    """Reads descriptions of people, one JSON object per line.

    `short_persona` is required, `archetype` (optional) is one of the marks of the topic list, and all other
    keys are added to the system message.

    Raises:
        DataError: the file cannot be read or a line is invalid; the message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot read the personas: {getattr(error, 'strerror', None) or error}"
        ) from None
    personas = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}: line {number}: not JSON ({error}); expected one JSON object per line"
            ) from None
        short = entry.get("short_persona") if isinstance(entry, dict) else None
        if not isinstance(short, str) or not short.strip():
            raise DataError(
                f"{path}: line {number}: expected a JSON object with a text under 'short_persona'"
            )
        if entry.get("archetype", "O") not in OPPOSITE:
            raise DataError(
                f"{path}: line {number}: archetype {entry['archetype']!r}; expected one of"
                f" {', '.join(OPPOSITE)}"
            )
        personas.append(entry)
    if not personas:
        raise DataError(f"{path}: no personas; expected one JSON object per line")
    return personas


def system_message(persona: Persona) -> str:
    """The system message of a persona's history."""
    about = json.dumps(persona.about, ensure_ascii=False)
    return f"You are an AI assistant helping a user with the following persona:\n\n{about}"


def _weighted(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
