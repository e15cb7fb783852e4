"""Memory targets of a simulated history: what a good memory contains after each message. The simulator knows,
since it wrote the conversations.

They are written to `memory_targets.jsonl` in the dataset folder, for the cold start and for reports.
Invariant: a line follows from the messages up to its own. What is somebody else's is never written as the
user's own, and sensitive information is never written. No prompt contains any of them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rft.data.faults import mentions
from rft.memory.text import without_forgotten
from rft.simulate.persona_record import SENSITIVE_KINDS, USED_KINDS, Conversation, PersonaRecord, Preference
from rft.simulate.question import ENJOYS
from rft.tasks.memory_targets import MemoryTarget

THEIRS = ", not the user's own"  # comes after somebody else's preference
NOTHING = ("open", "untold", "mention", *SENSITIVE_KINDS)  # kinds with nothing to remember


def target_of(preference: Preference, conversation: Conversation, first: int) -> MemoryTarget | None:
    """Returns the memory target of one conversation.

    A preference that is somebody else's is followed by `THEIRS`, as in the answers. A withdrawn preference is
    written once more with "forget it", and stored without its value.

    Args:
        preference: the preference that the conversation is about.
        conversation: the conversation.
        first: index of its first message in the history.

    Returns:
        The target, or None if there is nothing to remember.
    """
    if preference.kind in NOTHING:
        return None
    topic, text, previous = preference.topic.lower(), _plain(preference.text), _plain(preference.previous)
    message = first + _message(preference, conversation)
    about = (preference.previous or preference.text).strip()  # as the question's labels name it
    if is_theirs(preference, conversation):
        return MemoryTarget(message, about, f"{topic}: {previous or text}{THEIRS}.")
    if _withdraws(preference, conversation):
        written = f"{topic}: {previous}, forget it."
        return MemoryTarget(message, about, without_forgotten(written) or None, written)
    remembered = previous if preference.updated and conversation.place == "first" else text
    if preference.kind == "ended" and conversation.place == "later":
        remembered = f"Gave up {_doing(previous)}"
    return MemoryTarget(message, about, f"{topic}: {remembered}.")


def targets(record: PersonaRecord, conversations: Sequence[Conversation]) -> list[MemoryTarget]:
    """Returns the memory targets of a history, in order. Message 0 is the system message.

    Somebody else's value beside the user's own is a target (as theirs) only until the user's own is revealed.
    Of several queries that reveal an interest by repetition, the second is the target.

    Args:
        record: the persona record.
        conversations: the conversations of the history in order.
    """
    expected: list[MemoryTarget] = []
    of_preference = Counter(conversation.about for conversation in conversations)
    revealed_times: Counter[int] = Counter()
    first = 1
    for conversation in conversations:
        if (about := conversation.about) is not None:
            preference = record.preferences[about]
            revealed_times[about] += 1
            repeated = preference.kind == "own" and revealed_times[about] != min(of_preference[about], 2)
            own_is_revealed = (
                preference.kind == "beside"
                and revealed_times[about] > 1
                and is_theirs(preference, conversation)
            )
            called_for = target_of(preference, conversation, first)
            if called_for is not None and not repeated and not own_is_revealed:
                expected.append(called_for)
        first += len(conversation.messages)
    return expected


def line_of(record: PersonaRecord, conversations: Sequence[Conversation], link: str) -> dict[str, Any]:
    """Returns the line of `memory_targets.jsonl` for the history at `link`: its targets, and the values that
    the user asks to forget."""
    return {
        "history": link,
        "persona_id": record.persona.id,
        "notes": [dict(vars(target)) for target in targets(record, conversations)],
        "withdrawn": [
            previous_value(preference)
            for preference in record.preferences
            if preference.kind in ("renewed", "forget")
        ],
    }


def previous_value(preference: Preference) -> str:
    """Returns what distinguishes `previous` from other preferences of its topic, as `keyword` does for the
    preference that holds."""
    if preference.kind not in USED_KINDS:
        return preference.keyword
    before, _, after = preference.text.partition(preference.keyword)
    return preference.previous.removeprefix(before).removesuffix(after)


def is_theirs(preference: Preference, conversation: Conversation) -> bool:
    """Whether a conversation reveals somebody else's preference."""
    return preference.kind == "others" or (
        preference.kind == "beside"
        and any(mentions(_doing(preference.previous), m["content"]) for m in conversation.messages)
    )


def _withdraws(preference: Preference, conversation: Conversation) -> bool:
    """Whether a conversation ends with a request to forget, which stays without a reply as in the official
    data."""
    return preference.kind in ("renewed", "forget") and conversation.messages[-1]["role"] == "user"


def _message(preference: Preference, conversation: Conversation) -> int:
    """Index of the message that reveals, changes or withdraws: the user's first that mentions the value,
    otherwise the user's last."""
    own = [i for i, message in enumerate(conversation.messages) if message["role"] == "user"]
    if len(own) > 1 and not _withdraws(preference, conversation):
        values = (preference.keyword, previous_value(preference))
        for i in own:
            if any(mentions(value, conversation.messages[i]["content"]) for value in values if value):
                return i
    return own[-1]


def _doing(statement: str) -> str:
    """What an offline writer's statement says after its verb, which conversations repeat word for word."""
    return re.sub(rf"^({'|'.join((*ENJOYS, 'Is'))}) ", "", statement)


def _plain(text: str) -> str:
    """A text as it is written in a line."""
    return " ".join(text.split()).rstrip(".")
