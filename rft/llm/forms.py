"""What a response must look like, and the error if it does not."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Answer(BaseModel):
    """Base class of all response forms: every field is required, extra fields are errors. Forms have no
    docstrings, because pydantic would put them into the schema that is sent to the LLM."""

    model_config = ConfigDict(extra="forbid")


Form = TypeVar("Form", bound=Answer)


class Unusable(Exception):
    """A response that cannot be used; the message is the reason."""


def parsed(form: type[Form], entry: dict[str, Any]) -> Form:
    """Returns the response of a journal entry. Raises Unusable if it is refused, cut off or malformed."""
    if entry["refusal"]:
        raise Unusable("the LLM refused")
    if not entry["finished"]:
        raise Unusable("the answer was cut off")
    try:
        return form.model_validate_json(entry["content"])
    except ValidationError:
        raise Unusable("the answer was malformed") from None
