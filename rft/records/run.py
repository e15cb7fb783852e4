"""`run.json`: the evaluation that the rows next to it belong to."""

from pydantic import JsonValue

from rft.records.base import Record


class RunIdentity(Record):
    """All that the answers of one folder share. Its other keys are settings of the answerer and of how the
    questions are asked; a setting that is missing has its default."""

    __pydantic_extra__: dict[str, JsonValue]

    context: str
    split: str
    window: str
    data_sha256: str
