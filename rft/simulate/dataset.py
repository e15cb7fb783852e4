"""Mini personas as a dataset folder in the official PersonaMem-v2 layout.

Invariant: the folder is complete or absent; everything is written to a temporary folder beside it, which is
renamed at the end. Splits are by persona. The token counts in the columns are words and punctuation marks,
because the mini profile needs no tokenizer.
"""

import csv
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import track

from rft.data.dataset import COLUMNS, MEMORY_TARGETS, WINDOWS
from rft.errors import DataError
from rft.screen import screen
from rft.simulate import memory_targets, mini
from rft.simulate.mini import STORIES
from rft.simulate.single_writer import only_writer

SHARES = {"benchmark": 0.10, "val": 0.05}  # of the personas, at least one each; the rest is the train split
# additional filler conversations in the long history; they make it more than three times as long
LONG_FILLERS = 42
# size of the split "forget" relative to --personas: extra personas who ask to forget half of what they said
FORGET_SHARE = 0.05
FORGET_CATEGORIES = (
    "withdrawn",
    "withdrawn",
    "withdrawn",
    "withdrawn",
    "plain",
    "plain",
    "changed",
    "others",
)


def count_tokens(text: str) -> int:
    """Number of words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def rows(seed: int, persona: mini.Persona, long: mini.Persona) -> list[dict[str, object]]:
    """Returns the questions of one persona in random order, as rows of the official columns.

    Args:
        seed: seed of the dataset.
        persona: the persona with its 32k history.
        long: the same persona with its 128k history.
    """
    rng = Random(f"questions-{seed}-{persona.id}")
    about = {"name": persona.name, "age": persona.age, "occupation": persona.occupation}
    out: list[dict[str, object]] = []
    for fact in persona.facts:
        gold, wrong = mini.options(rng, fact)
        of_fact = [block for block in persona.blocks if block.fact is fact]
        preference, before = _labels(fact)
        row: dict[str, object] = dict.fromkeys(COLUMNS, "")
        out.append(
            row
            | {
                "persona_id": persona.id,
                "short_persona": f"A {persona.occupation} aged {persona.age}",
                "expanded_persona": json.dumps(about),
                "user_query": repr({"role": "user", "content": fact.topic.query}),
                "correct_answer": gold,
                "incorrect_answers": json.dumps(wrong),
                "topic_query": fact.topic.name.capitalize(),
                "preference": preference,
                "topic_preference": fact.topic.name.capitalize(),
                "conversation_scenario": next(block.scenario for block in of_fact if block.telling),
                "pref_type": "ask_to_forget" if fact.kind in STORIES["withdrawn"] else fact.topic.pref_type,
                "related_conversation_snippet": json.dumps(
                    [message for block in of_fact for message in block.messages]
                ),
                "who": "others" if fact.kind in STORIES["others"] else "self",
                "updated": fact.kind in (*STORIES["changed"], *STORIES["withdrawn"]),
                "prev_pref": before,
                "sensitive_info": False,
                **_in_window("32k", persona, fact),
                **_in_window("128k", long, fact),
            }
        )
    rng.shuffle(out)
    return out


def _labels(fact: mini.Fact) -> tuple[str, str]:
    """The columns `preference` and `prev_pref` of a fact's question, as in the other profiles.

    `preference` is the preference that holds at the end ("": none). `prev_pref` is the one that must not be
    used: outdated, withdrawn or somebody else's ("": none). As in the official data, `preference` also
    contains a preference that is only withdrawn or only somebody else's.
    """
    first = f"Enjoys {fact.topic.with_value(fact.first)}"
    held = f"Enjoys {fact.topic.with_value(fact.value)}" if fact.value else ""
    if fact.kind == "forget":
        return f"Do not remember '{fact.topic.with_value(fact.first)}' in memory", first
    if fact.kind == "contrast":
        return held, f"Enjoys {fact.topic.with_value(fact.rival or '')}"
    if fact.kind == "others":
        return first, ""
    return held, first if fact.kind != "own" else ""


def _in_window(window: str, persona: mini.Persona, fact: mini.Fact) -> dict[str, object]:
    """The columns about one window's history."""
    sizes = [sum(count_tokens(m["content"]) for m in block.messages) for block in persona.blocks]
    total = count_tokens(persona.system) + sum(sizes)
    fillers = [size for size, block in zip(sizes, persona.blocks, strict=True) if block.fact is None]
    filler = sum(fillers) if window == "128k" else 0
    evidence = next(i for i, block in enumerate(persona.blocks) if block.fact is fact and block.telling)
    return {
        f"chat_history_{window}_link": history_link(persona.id, window),
        f"total_tokens_in_chat_history_{window}": total,
        f"distance_from_related_snippet_to_query_{window}": sum(
            size
            for size, block in zip(sizes[evidence + 1 :], persona.blocks[evidence + 1 :], strict=True)
            # only other conversations; otherwise the distance would reveal a repetition
            if block.fact is not fact
        ),
        f"num_persona_relevant_tokens_{window}": total - filler,
        f"num_persona_irrelevant_tokens_{window}": filler,
    }


def history_link(persona_id: int, window: str = "32k") -> str:
    """Path of a history file relative to the dataset folder."""
    return f"data/chat_history_{window}/chat_history_mini_persona{persona_id}.json"


def split_personas(personas: int, seed: int) -> dict[str, list[int]]:
    """Assigns every persona id to exactly one split; depends only on (personas, seed)."""
    ids = list(range(personas))
    Random(f"split-{seed}").shuffle(ids)
    splits, start = {}, 0
    for name, share in SHARES.items():
        size = max(1, round(share * personas))
        splits[name] = sorted(ids[start : start + size])
        start += size
    return splits | {"train": sorted(ids[start:])}


def simulate_mini(out: Path, personas: int, seed: int, console: Console | None = None) -> Counter[str]:
    """Writes a dataset of mini personas to a new folder.

    Args:
        out: folder to create; it may exist if it is empty.
        personas: number of personas, at least 3; the split "forget" comes on top.
        seed: the same seed gives the same bytes.
        console: console for the progress bar (default: stderr).

    Returns:
        The number of questions per split.

    Raises:
        DataError: fewer than three personas, `out` exists and is not empty, or another process writes to it.
    """
    if personas < 3:
        raise DataError(
            f"--personas {personas}: train, val and benchmark need at least one persona each; give 3 or more"
        )
    with only_writer(out):
        return _simulate(out, personas, seed, console or screen(stderr=True))


def _simulate(out: Path, personas: int, seed: int, console: Console) -> Counter[str]:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: already exists and is not an empty folder; nothing was changed. Use another --out or"
            " remove it"
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for window in WINDOWS:
        (partial / f"data/chat_history_{window}").mkdir(parents=True)
    (partial / "benchmark/text").mkdir(parents=True)
    counts: Counter[str] = Counter()
    splits = split_personas(personas, seed)
    splits["forget"] = list(range(personas, personas + max(1, round(FORGET_SHARE * personas))))
    with open(partial / MEMORY_TARGETS, "w", encoding="utf-8") as targets:
        for name in ("train", "val", "benchmark", "forget"):
            with open(partial / f"benchmark/text/{name}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                for persona_id in track(splits[name], f"simulating {name}", console=console, transient=True):
                    persona = mini.make_persona(
                        seed, persona_id, FORGET_CATEGORIES if name == "forget" else mini.CATEGORIES
                    )
                    long = memory_targets.lengthen(Random(f"long-{seed}-{persona_id}"), persona, LONG_FILLERS)
                    of_persona = rows(seed, persona, long)
                    writer.writerows(of_persona)
                    counts[name] += len(of_persona)
                    for window, told in zip(WINDOWS, (persona, long), strict=True):
                        link = history_link(persona_id, window)
                        tokens = of_persona[0][f"total_tokens_in_chat_history_{window}"]
                        history = {
                            "metadata": {
                                "total_messages": len(told.messages),
                                "final_token_count": tokens,
                                "persona_id": persona_id,
                            },
                            "chat_history": told.messages,
                        }
                        (partial / link).write_text(json.dumps(history, indent=1), encoding="utf-8")
                        targets.write(json.dumps(memory_targets.record(told, link)) + "\n")
    (partial / "README.md").write_text(
        f"# Simulated mini personas\n\n{personas} personas, seed {seed}; questions: "
        + ", ".join(f"{name} {counts[name]}" for name in counts)
        + ".\nOfficial PersonaMem-v2 columns; token counts are words and punctuation marks. The 128k"
        f" histories contain the same\nchats with more filler between them. {MEMORY_TARGETS} lists what a"
        " memory should contain after each message; it is\nfor cold starts and reports, never for"
        " prompts.\n",
        encoding="utf-8",
    )
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return counts
