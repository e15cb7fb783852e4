"""The question browser of a report: every question with its answers, as data that a fixed script shows.

Invariant: the data is inert (JSON in a block that no browser runs, with every `<`, `>` and `&` escaped), and
the script puts it on the page as text only. The page's policy allows this one script, by its hash, and no
other.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from markupsafe import Markup

from rft.models.reply import REFUSED
from rft.records.row import ResultRow, grouped
from rft.report.charts import readable
from rft.tasks.base import Shown
from rft.tasks.load import task_named

LONGEST_COMPLETION = 4000  # characters kept at each end of a longer completion
LARGEST_PAGE = 40_000_000  # characters of data; above this, completions are shortened further
Entry = dict[str, object]
"""A question as the script reads it."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def status(row: ResultRow) -> str:
    """Returns right, wrong, unparsed (no readable answer), refused, or unscored (no verdict from the
    judge)."""
    if row.score:
        return "right"
    if row.ending in REFUSED:
        return "refused"
    if row.answered is None:
        return "unparsed"
    return "unscored" if row.score is None else "wrong"


def entries(runs: Mapping[str, Sequence[ResultRow]]) -> list[Entry]:
    """Returns one entry per question of the first run, with the answers of all runs to it.

    Args:
        runs: {name of the run: its rows}.
    """
    by_question: dict[str, Entry] = {}
    rows_of = grouped((row.question, (name, row)) for name, rows in runs.items() for row in rows)
    longest = LONGEST_COMPLETION
    size = sum(min(len(row.completion), 2 * longest) for rows in runs.values() for row in rows)
    if size > LARGEST_PAGE:
        longest = max(200, longest * LARGEST_PAGE // size)
    for row in next(iter(runs.values())):
        question = row.question
        if question in by_question:
            continue
        labels = shown_labels(row)
        by_question[question] = {
            "id": question,
            "persona": row.persona_id,
            "query": row.query,
            "options": [] if row.open_ended else list(row.options),
            "gold": row.gold,
            "kind": readable(labels.kind),
            "facts": [*labels.facts, *_right(row)],
            "labels": labels.about,
            "answers": [_answer(name, answer, row, longest) for name, answer in rows_of[question]],
        }
    return list(by_question.values())


def shown_labels(row: ResultRow) -> Shown:
    """Returns how a page shows the labels of a row."""
    return task_named(row.task).shown(row.labels)


def _right(row: ResultRow) -> list[str]:
    """Returns what is right, for a question without options."""
    if row.abstain:
        return ["right: that it cannot be known"]
    return [f"right: {text}" for text in row.accepted]


def _answer(name: str, row: ResultRow, shown: ResultRow, longest: int) -> dict[str, object]:
    variant_labels = [f"option order {row.order + 1}"] if row.order else []
    variant_labels += [f"sample {row.sample + 1}"] if row.sample else []
    text = row.completion
    cut = len(text) - 2 * longest
    answer: dict[str, object] = {
        "run": ", ".join([name, *variant_labels] if name else variant_labels),
        "status": status(row),
        "text": text if cut <= 0 else f"{text[:longest]}\n[… {cut:,} more characters …]\n{text[-longest:]}",
    }
    if row.read:
        answer["read"] = row.read
    if row.open_ended:
        answer["votes"] = row.votes
    else:
        answer["letter"] = row.answered
        if row.options != shown.options:
            answer["options"] = list(row.options)
            answer["gold"] = row.gold
    if not row.finished:
        answer["cut"] = True
    return answer


def data(questions: Sequence[Entry]) -> Markup:
    """Returns the JSON of a page's data block."""
    text = json.dumps(questions, ensure_ascii=False, separators=(",", ":"))
    return Markup("".join(_ESCAPES.get(c, c) for c in text) if any(c in text for c in _ESCAPES) else text)


def script() -> tuple[Markup, str]:
    """Returns the script, and its hash as written in a content security policy."""
    text = (files("rft.report") / "templates" / "browser.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return Markup(text), f"'sha256-{digest}'"
