"""The JSON schemas of the files: `python -m rft.records.schema FOLDER` writes them.

Invariant: `docs/schema` contains what this module makes from the models; a test compares them.
"""

import json
import sys
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

from rft.files import write_whole
from rft.records.base import Record
from rft.records.comparison import Comparison
from rft.records.row import ResultRow
from rft.records.run import RunIdentity
from rft.records.summary import Summary
from rft.records.training import MetricsLine, Provenance

SCHEMAS: dict[str, type[Record]] = {
    "results": ResultRow,
    "summary": Summary,
    "run": RunIdentity,
    "comparison": Comparison,
    "metrics": MetricsLine,
    "provenance": Provenance,
}
"""{name of the file: the model of the file, or of each of its lines}."""


class _WithoutTitles(GenerateJsonSchema):
    """A title would only repeat the key."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def schema(model: type[Record]) -> str:
    """The JSON schema of a record, as text."""
    json_schema = model.model_json_schema(schema_generator=_WithoutTitles)
    return json.dumps(json_schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, model in SCHEMAS.items():
        write_whole(Path(sys.argv[1]) / f"{name}.schema.json", schema(model))
