"""Simulated personas as a dataset folder in the official PersonaMem-v2 layout.

The folder appears whole or not at all: everything is written beside it and renamed at the end. Splits are by persona. Token
counts in the columns count words and punctuation marks, since the mini profile comes before any tokenizer.
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

from rft.data.dataset import COLUMNS
from rft.errors import DataError
from rft.simulate import mini

SHARES = {"benchmark": 0.10, "val": 0.05}  # of the personas, at least one each; the rest trains


def count_tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def rows(seed: int, persona: mini.Persona) -> list[dict[str, object]]:
    """The questions of one persona in random order, as rows of the official columns."""
    rng = Random(f"questions-{seed}-{persona.id}")
    sizes = [sum(count_tokens(m["content"]) for m in block.messages) for block in persona.blocks]
    total = count_tokens(persona.system) + sum(sizes)
    about = {"name": persona.name, "age": persona.age, "occupation": persona.occupation}
    out: list[dict[str, object]] = []
    for fact in persona.facts:
        gold, wrong = mini.options(rng, fact)
        held = fact.topic.with_value(fact.value or fact.first)
        evidence = max(i for i, block in enumerate(persona.blocks) if block.fact is fact)
        forget = fact.kind == "forget"
        row: dict[str, object] = dict.fromkeys(COLUMNS, "")
        out.append(row | {
            "persona_id": persona.id,
            "chat_history_32k_link": history_link(persona.id),
            "short_persona": f"A {persona.occupation} aged {persona.age}",
            "expanded_persona": json.dumps(about),
            "user_query": repr({"role": "user", "content": fact.topic.query}),
            "correct_answer": gold,
            "incorrect_answers": json.dumps(wrong),
            "topic_query": fact.topic.name.capitalize(),
            "preference": f"Do not remember '{held}' in memory" if forget else f"Enjoys {held}",
            "topic_preference": fact.topic.name.capitalize(),
            "conversation_scenario": persona.blocks[evidence].scenario,
            "pref_type": "ask_to_forget" if forget else fact.topic.pref_type,
            "related_conversation_snippet": json.dumps(persona.blocks[evidence].messages),
            "who": "others" if fact.kind == "others" else "self",
            "updated": fact.kind in ("update", "forget"),
            "prev_pref": f"Enjoys {fact.topic.with_value(fact.first)}" if fact.kind in ("update", "forget") else "",
            "sensitive_info": False,
            "total_tokens_in_chat_history_32k": total,
            "distance_from_related_snippet_to_query_32k": sum(sizes[evidence + 1 :]),
            "num_persona_relevant_tokens_32k": total,
            "num_persona_irrelevant_tokens_32k": 0,
        })
    rng.shuffle(out)
    return out


def history_link(persona_id: int) -> str:
    return f"data/chat_history_32k/chat_history_mini_persona{persona_id}.json"


def split_personas(personas: int, seed: int) -> dict[str, list[int]]:
    """Every persona id in exactly one split; the same for one (personas, seed)."""
    ids = list(range(personas))
    Random(f"split-{seed}").shuffle(ids)
    splits, start = {}, 0
    for name, share in SHARES.items():
        size = max(1, round(share * personas))
        splits[name] = sorted(ids[start : start + size])
        start += size
    return splits | {"train": sorted(ids[start:])}


def simulate_mini(out: Path, personas: int, seed: int, console: Console | None = None) -> Counter[str]:
    """Write `personas` mini personas to the new folder `out`; return the number of questions per split.

    Raises:
        DataError: fewer than three personas, or `out` exists and is not empty.
    """
    if personas < 3:
        raise DataError(f"--personas {personas}: train, val and benchmark need at least one persona each; give 3 or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: already there and not an empty folder; nothing was changed. Name another --out or remove it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data/chat_history_32k").mkdir(parents=True)
    (partial / "benchmark/text").mkdir(parents=True)
    counts: Counter[str] = Counter()
    splits = split_personas(personas, seed)
    for name in ("train", "val", "benchmark"):
        with open(partial / f"benchmark/text/{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for persona_id in track(splits[name], f"simulating {name}", console=console or Console(stderr=True), transient=True):
                persona = mini.make_persona(seed, persona_id)
                of_persona = rows(seed, persona)
                writer.writerows(of_persona)
                counts[name] += len(of_persona)
                tokens = of_persona[0]["total_tokens_in_chat_history_32k"]
                history = {"metadata": {"total_messages": len(persona.messages), "final_token_count": tokens,
                                        "persona_id": persona_id}, "chat_history": persona.messages}
                (partial / history_link(persona_id)).write_text(json.dumps(history, indent=1), encoding="utf-8")
    (partial / "README.md").write_text(
        f"# Simulated mini personas\n\n{personas} personas, seed {seed}; questions: "
        + ", ".join(f"{name} {counts[name]}" for name in counts)
        + ".\nOfficial PersonaMem-v2 columns; token counts are words and punctuation marks.\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return counts
