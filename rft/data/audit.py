"""What a question gives away before anyone reads the history.

Invariant: a prompt is a function of query, options and history alone, and a rule that reads no history scores
what chance does. The first is proven for our prompts; the second is measured, for it is the data's affair:
released PersonaMem-v2 breaks it (the gold is too often the longest option), so every accuracy must be read
beside these numbers.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rft.data.dataset import csv_path, history_path, read_rows
from rft.data.history import History, read_history, text_of
from rft.data.private import plausible_items
from rft.data.probe import probe
from rft.data.prompt import CONTEXTS, SYSTEM, final_message, messages
from rft.data.question import LETTERS, Labels, Question, UnusableRow, read_question
from rft.errors import DataError

CHANCE = 1 / len(LETTERS)
SHARES = {
    "gold is the longest, alone": "gold_longest_alone",
    "gold is among the longest": "gold_longest",
    "gold is the shortest, alone": "gold_shortest_alone",
    "gold is among the shortest": "gold_shortest",
    "score of: always the longest": "longest_rule",
    "score of: always the shortest": "shortest_rule",
}
NO_LABELS = Labels(
    pref_type="",
    who="",
    updated=False,
    scenario="",
    distance=None,
    preference="",
    prev_pref="",
    sensitive=False,
)
TELLING = 12  # characters; a shorter label ("Tea") may be in a text by chance


def shortcuts(questions: Sequence[Question]) -> dict[str, Any]:
    """How far option length (in characters) and letters predict the gold, as shares of the questions.

    gold_longest_alone, gold_longest (ties included), gold_shortest_alone, gold_shortest; longest_rule and
    shortest_rule: the expected score of always taking the longest (shortest) option, ties split evenly;
    letters: how often each letter is gold; rules: the scores of RULES; probe: what `probe` reaches;
    standard_error: of the score of a rule that guesses.
    """
    n = len(questions)
    report: dict[str, Any] = {"n": n}
    for name, extreme in (("longest", max), ("shortest", min)):
        ties = [_ties(question, extreme) for question in questions]
        report[f"gold_{name}_alone"] = sum(t == 1 for t in ties) / n
        report[f"gold_{name}"] = sum(t > 0 for t in ties) / n
        report[f"{name}_rule"] = sum(1 / t for t in ties if t) / n
    report["letters"] = {letter: sum(q.gold == letter for q in questions) for letter in LETTERS}
    report["rules"] = {name: _score(questions, rule) for name, rule in RULES.items()}
    report["probe"] = probe(questions)
    report["standard_error"] = (CHANCE * (1 - CHANCE) / n) ** 0.5
    return report


def lines(audit: Mapping[str, Any]) -> dict[str, str]:
    """An audit as label -> figure, for tables."""
    shown = {text: f"{audit[key]:.1%}" for text, key in SHARES.items()}
    shown |= {f"score of: {name}": f"{score:.1%}" for name, score in audit["rules"].items()}
    guess = audit["probe"]
    shown["score of: a trained probe on the options"] = f"{guess['accuracy']:.1%}" if guess else "too few rows"
    shown["gold letters a b c d"] = " ".join(map(str, audit["letters"].values()))
    if "evidence" in audit:
        shown["evidence found in the history"] = f"{audit['evidence']:.1%}"
        shown["personal items outside reserved ranges"] = f"{audit['personal_items']:,}"
    return shown


def audit_split(root: Path, split: str, window: str) -> dict[str, Any]:
    """`shortcuts` of one split, and what its histories tell: evidence (share of rows), personal_items (distinct).

    Holds one history at a time, whatever the size of the dataset; rows of a persona should stand together.
    """
    column = f"chat_history_{window}_link"
    questions: list[Question] = []
    evident, items = 0, set[str]()
    link, history, said = "", None, set[str]()
    for row, record in read_rows(csv_path(root, split)):
        where = f"{split}: row {row}"
        if history is None or record[column] != link:
            link = record[column]
            history = read_history(history_path(root, link, where, column))
            said = texts_of(history)
            items.update(item for message in history.turns for item in plausible_items(message.content))
        try:
            question = read_question(record, row, split, window, history.id, where)
        except UnusableRow:
            continue
        questions.append(question)
        evident += evidence_found(record, said)
        items.update(plausible_items("\n".join((question.query, *question.options))))
    return {**shortcuts(questions), "evidence": evident / len(questions), "personal_items": len(items)}


def texts_of(history: History) -> set[str]:
    """The messages of a history as `evidence_found` compares them: without regard to case and white space."""
    return {_fold(message.content) for message in history.messages}


def evidence_found(record: Mapping[str, str], said: Collection[str]) -> bool:
    """Whether every message of the row's snippet is among the texts `said` in its history."""
    evidence = _evidence(record.get("related_conversation_snippet", ""))
    return bool(evidence) and all(_fold(text) in said for text in evidence)


def telling_rules(report: Mapping[str, Any]) -> dict[str, float]:
    """The rules of a `shortcuts` report whose score is more than 5 points, and more than chance variation,
    above chance.

    All but the first two are judged by three standard errors, since they are the best of several.
    """
    best = max(report["letters"], key=report["letters"].get)
    scores = {"longest option": (report["longest_rule"], 2), "shortest option": (report["shortest_rule"], 2)}
    scores[f"always {best}"] = (report["letters"][best] / report["n"], 3)
    scores |= {rule: (score, 3) for rule, score in report.get("rules", {}).items()}
    if guess := report.get("probe"):
        scores["a trained probe on the options"] = (guess["accuracy"], 3)
    margins = {rule: max(0.05, errors * report["standard_error"]) for rule, (_, errors) in scores.items()}
    return {rule: score for rule, (score, _) in scores.items() if score - CHANCE > margins[rule]}


def prove_label_free(question: Question, history: History) -> None:
    """Build the question's prompt in every context, with its labels and without them.

    Raises DataError where the two differ, that is, where anything but query, options and history reaches the
    model.
    """
    bare = replace(question, id="", row=0, persona_id="", gold=LETTERS[0], labels=NO_LABELS)
    for context in CONTEXTS:
        if messages(question, history, context) != messages(bare, history, context):
            raise DataError(
                f"question {question.id}: its prompt in context {context!r} depends on its labels"
            )


def repeated_labels(question: Question, record: Mapping[str, str]) -> list[str]:
    """The label columns whose text stands word for word in what a prompt adds to the history.

    Options may well repeat the preference they are about, and a query may be a message of the history (some
    are); apart from that neither descriptions of the person nor evidence may stand there.
    """
    added = _fold(SYSTEM + "\n" + final_message(question))
    asked = _fold(question.query)
    found = [c for c in ("preference", "prev_pref") if _stands(record.get(c, ""), asked)]
    found += [c for c in ("short_persona", "expanded_persona") if _stands(record.get(c, ""), added)]
    evidence = [
        text for text in _evidence(record.get("related_conversation_snippet", "")) if _fold(text) != asked
    ]
    if any(_stands(text, added) for text in evidence):
        found.append("related_conversation_snippet")
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _shared_with_query(question: Question) -> list[float]:
    asked = _words(question.query)
    return [len(asked & _words(option)) for option in question.options]


def _shared_with_others(question: Question) -> list[float]:
    words = [_words(option) for option in question.options]
    return [sum(len(mine & other) / max(len(mine | other), 1) for other in words if other is not mine) for mine in words]


def _marks(question: Question) -> list[float]:
    """Punctuation that sets a tone."""
    return [len(re.findall(r"[!?,;:—–()\"“”‘’]", option)) for option in question.options]


RULES: dict[str, Callable[[Question], list[float]]] = {
    "most words of the query": _shared_with_query,
    "fewest words of the query": lambda q: [-x for x in _shared_with_query(q)],
    "most like the other options": _shared_with_others,
    "least like the other options": lambda q: [-x for x in _shared_with_others(q)],
    "most punctuation": _marks,
    "least punctuation": lambda q: [-x for x in _marks(q)],
}


def _score(questions: Sequence[Question], rule: Callable[[Question], list[float]]) -> float:
    """The expected score of taking the option that a rule ranks highest, ties split evenly."""
    total = 0.0
    for question in questions:
        values = rule(question)
        if values[LETTERS.index(question.gold)] == max(values):
            total += 1 / values.count(max(values))
    return total / len(questions)


def _evidence(snippet: str) -> list[str]:
    """The messages of a snippet (a JSON list of role and content); the snippet itself where it is not
    that.
    """
    try:
        return [text_of(message["content"]) or "" for message in json.loads(snippet)]
    except (ValueError, TypeError, KeyError):
        return [snippet]


def _ties(question: Question, extreme: Any) -> int:
    """How many options share the extreme length, 0 where the gold is not among them."""
    lengths = [len(option) for option in question.options]
    wanted = extreme(lengths)
    return lengths.count(wanted) if lengths[LETTERS.index(question.gold)] == wanted else 0


def _stands(label: str, text: str) -> bool:
    label = _fold(label)
    return len(label) >= TELLING and label in text


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())
