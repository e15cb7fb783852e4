"""Final checks of a persona record before it is written to disk, the same for every writer.

Invariant: no question reveals its preference, only the gold uses the preference that holds, options have no
preamble, the evidence is in the conversations, and no personal item could be a real one. These are fixed
rules; no model judges here.
"""

from rft.data.faults import mentions, question_faults
from rft.data.private import plausible_items
from rft.errors import DataError
from rft.simulate.persona_record import (
    SENSITIVE_KINDS,
    USED_KINDS,
    Conversation,
    PersonaRecord,
    Preference,
    QuestionItem,
)
from rft.simulate.topics import content_words


def conflict(preference: Preference, kept: list[Preference]) -> str | None:
    """Returns why a preference conflicts with one already kept (same topic or same words), or None if it does
    not."""
    for other in kept:
        if preference.topic.casefold() == other.topic.casefold() and not preference.topic.startswith(
            "Sensitive"
        ):
            return f"same topic as {other.text!r}"
        own_words, other_words = content_words(preference.keyword), content_words(other.keyword)
        if 2 * len(own_words & other_words) > min(len(own_words), len(other_words)):
            return f"same words as {other.text!r}"
    return None


def item_faults(item: QuestionItem, preference: Preference) -> list[str]:
    """Returns the faults of a question; empty if there are none."""
    used = preference.kind in USED_KINDS
    return question_faults(item, [preference.text, preference.previous], preference.keyword, used)


def conversation_faults(conversation: Conversation) -> list[str]:
    """Returns the faults of a conversation; empty if there are none."""
    faults, messages = [], conversation.messages
    if not messages or messages[0]["role"] != "user" or len(messages) > 12:
        faults.append("not two to twelve messages that begin with the user")
    if any(m["role"] not in ("user", "assistant") or not m["content"].strip() for m in messages):
        faults.append("an empty message, or one by nobody")
    return faults


def check_record(record: PersonaRecord) -> None:
    """Checks a whole persona record.

    Raises:
        DataError: the record breaks a rule; the message names the persona and the first fault.
    """
    where = f"persona {record.persona.id}"
    revealed: dict[int | None, str] = {}
    for conversation in record.conversations:
        if faults := conversation_faults(conversation):
            raise DataError(f"{where}: bad conversation: {faults[0]}")
        if conversation.evidence:
            text = "\n".join(message["content"] for message in conversation.messages)
            revealed[conversation.about] = f"{revealed.get(conversation.about, '')}\n{text}"
    for item in record.items:
        preference = record.preferences[item.about]
        if (item.about not in revealed) != (preference.kind == "untold"):
            many = "no conversation" if item.about not in revealed else "a conversation"
            raise DataError(f"{where}: {many} reveals {preference.text!r}, of kind {preference.kind}")
        if preference.kind in SENSITIVE_KINDS and not mentions(preference.keyword, revealed[item.about]):
            raise DataError(f"{where}: none of its conversations contains {preference.keyword!r}")
        if faults := item_faults(item, preference):
            raise DataError(f"{where}: question about {preference.text!r}: {faults[0]}: {item.query!r}")
    texts = [message["content"] for conversation in record.conversations for message in conversation.messages]
    if plausible := [item for text in texts for item in plausible_items(text)]:
        raise DataError(
            f"{where}: {plausible[0]!r} could belong to a real person; personal items must come from reserved"
            " ranges"
        )
