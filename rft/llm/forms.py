"""What a response must look like, and the error if it does not."""

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

FENCED = re.compile(r"^\s*```\w*\s*\n(.*?)\n\s*```\s*$", re.DOTALL | re.MULTILINE)


class Answer(BaseModel):
    """Base class of all response forms: every field is required, extra fields are errors. Forms have no
    docstrings, because pydantic would put them into the schema that is sent to the LLM."""

    model_config = ConfigDict(extra="forbid")


Form = TypeVar("Form", bound=Answer)


MALFORMED = "the answer was malformed"


class Unusable(Exception):
    """A response that cannot be used; the message is the reason."""


def parsed(form: type[Form], entry: dict[str, Any]) -> Form:
    """Returns the response of a journal entry: its text, or the only fenced block in it.

    Raises:
        Unusable: it is refused, cut off or malformed.
    """
    if entry["refusal"]:
        raise Unusable("the LLM refused")
    if not entry["finished"]:
        raise Unusable("the answer was cut off")
    content = entry["content"]
    blocks = FENCED.findall(content)
    try:
        return form.model_validate_json(blocks[0] if len(blocks) == 1 else content)
    except ValidationError:
        raise Unusable(MALFORMED) from None
