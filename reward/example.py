"""What a reward sees: one example per completion, as columns; the same columns in every training.

Invariant: `COLUMNS` lists every name that a reward can take, so a recipe whose reward takes another one is
refused before a model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Example:
    """One completion and the question behind it. A reward gets every field as a column: a list of N values.

    Attributes:
        prompt: The final user message, without the history or the memory (column `prompts`).
        completion: The completion's text (column `completions`).
        completion_ids: Its token ids.
        question_id: Id of the question.
        history_id: Id of the history that the question is about.
        persona_id: Id of the person.
        query: What the user asks, without options.
        options: The options in display order.
        answer: The gold letter; None if the question is asked without options (open-ended).
        accepted: Texts that are right answers to a question without options.
        abstain: Whether the right answer is that it cannot be known.
        labels: All annotations of the question, such as `scenario` and `topic`.
        finished: Whether the completion ended by itself; False if it was cut off.
        blind: Whether the question was asked without its history, or with an empty memory.
        kind: What a correct answer must recognize, such as a preference that has changed ("" if there is only
            one kind).
        fact: The fact that a judge is shown.
        judge_case: The judge's rubric: a key of `reward.judge.RUBRICS`, or a rubric in words.
    """

    prompt: str = ""
    completion: str = ""
    completion_ids: Sequence[int] = ()
    question_id: str = ""
    history_id: str = ""
    persona_id: str = ""
    query: str = ""
    options: Sequence[str] = ()
    answer: str | None = None
    accepted: Sequence[str] = ()
    abstain: bool = False
    labels: dict[str, Any] = field(default_factory=dict)
    finished: bool = True
    blind: bool = False
    kind: str = ""
    fact: str = ""
    judge_case: str = ""


PLURAL = {"prompt": "prompts", "completion": "completions"}  # TRL's names of these two columns
OF_A_RUN = ("trainer_state", "log_metric", "log_extra")
"""Not columns but one value each: transformers' TrainerState (such as `trainer_state.global_step`), a
function `log_metric(name, number)` and a function `log_extra(column, values)`, which adds a column to the
table of completions."""
COLUMNS = (*(PLURAL.get(f.name, f.name) for f in fields(Example)), *OF_A_RUN)


def columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """Returns the examples as columns: {name: N values}."""
    return {
        PLURAL.get(f.name, f.name): [getattr(example, f.name) for example in examples]
        for f in fields(Example)
    }
