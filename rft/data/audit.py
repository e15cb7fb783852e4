"""What a question gives away before anyone reads the history.

Invariant: a prompt is a function of query, options and history alone, and a rule that reads no history scores
what chance does. The first is proven for our prompts; the second is measured, for it is the data's affair:
released PersonaMem-v2 breaks it (the gold is too often the longest option), so every accuracy must be read
beside these numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rft.data.history import History, text_of
from rft.data.prompt import CONTEXTS, SYSTEM, final_message, messages
from rft.data.question import LETTERS, Labels, Question
from rft.errors import DataError

CHANCE = 1 / len(LETTERS)
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
    letters: how often each letter is gold; standard_error: of the score of a rule that guesses.
    """
    n = len(questions)
    report: dict[str, Any] = {"n": n}
    for name, extreme in (("longest", max), ("shortest", min)):
        ties = [_ties(question, extreme) for question in questions]
        report[f"gold_{name}_alone"] = sum(t == 1 for t in ties) / n
        report[f"gold_{name}"] = sum(t > 0 for t in ties) / n
        report[f"{name}_rule"] = sum(1 / t for t in ties if t) / n
    report["letters"] = {letter: sum(q.gold == letter for q in questions) for letter in LETTERS}
    report["standard_error"] = (CHANCE * (1 - CHANCE) / n) ** 0.5
    return report


def telling_rules(report: Mapping[str, Any]) -> dict[str, float]:
    """The rules of a `shortcuts` report whose score is more than 5 points, and more than chance variation,
    above chance.

    Always taking one letter is judged by three standard errors, since it is the best of four.
    """
    best = max(report["letters"], key=report["letters"].get)
    scores = {"longest option": (report["longest_rule"], 2), "shortest option": (report["shortest_rule"], 2)}
    scores[f"always {best}"] = (report["letters"][best] / report["n"], 3)
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
