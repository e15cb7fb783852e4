"""Conversion of a persona record and its histories to files: rows of the 27 official columns, histories."""

import json
from random import Random
from typing import Any

from rft.simulate.history import Assembled, evidence
from rft.simulate.persona_record import PersonaRecord
from rft.simulate.profile import PROFILES
from rft.tasks.personamem.dataset import COLUMNS


def history_link(profile: str, window: str, persona_id: int) -> str:
    """Path of a history file relative to the dataset folder."""
    stem = profile if PROFILES[profile].compact else window
    return f"data/chat_history_{window}/chat_history_{stem}_persona{persona_id}.json"


def raw_link(profile: str, persona_id: int) -> str:
    """Path of a persona record relative to the dataset folder; "" if the profile has none."""
    return "" if PROFILES[profile].compact else f"data/raw_data/raw_data_persona{persona_id}.json"


def history_document(profile: str, record: PersonaRecord, assembled: Assembled) -> dict[str, Any]:
    """The content of a history file; except in compact profiles with the same metadata as the released
    files."""
    metadata: dict[str, Any] = {
        "total_messages": len(assembled.messages),
        "final_token_count": assembled.tokens,
        "persona_id": record.persona.id,
    }
    if not PROFILES[profile].compact:
        metadata |= {
            "input_filename": raw_link(profile, record.persona.id),
            "num_relevant_tokens": assembled.relevant_tokens,
            "num_irrelevant_tokens": assembled.tokens - assembled.relevant_tokens,
        }
    return {"metadata": metadata, "chat_history": assembled.messages}


def rows(
    profile: str, record: PersonaRecord, histories: dict[str, Assembled], seed: int
) -> list[dict[str, Any]]:
    """Returns the questions of one persona as rows of the official columns.

    A question about a preference that is never revealed has no snippet, scenario or distance. The rows are in
    random order, which the mini writer has drawn itself.

    Args:
        profile: name of the profile.
        record: the persona record.
        histories: histories by window name.
        seed: seed of the dataset.
    """
    persona = record.persona
    question_rows = []
    for item in record.items:
        preference, block = record.preferences[item.about], evidence(record, item.about)
        row = dict.fromkeys(COLUMNS, "") | {
            "persona_id": persona.id,
            "raw_persona_file": raw_link(profile, persona.id),
            "short_persona": persona.short,
            "expanded_persona": json.dumps(persona.about, ensure_ascii=False),
            "user_query": repr({"role": "user", "content": item.query}),
            "correct_answer": item.gold,
            "incorrect_answers": json.dumps(item.distractors, ensure_ascii=False),
            "topic_query": preference.topic,
            "preference": preference.text,
            "topic_preference": preference.topic,
            "pref_type": preference.pref_type,
            "who": preference.who,
            "updated": preference.updated,
            "prev_pref": preference.previous,
            "sensitive_info": preference.pref_type == "sensitive_info",
        }
        if block:
            row["conversation_scenario"] = block.scenario
            snippet = [
                message
                for other in record.conversations
                if other is block or (PROFILES[profile].whole_stories and other.about == item.about)
                for message in other.messages
            ]
            row["related_conversation_snippet"] = json.dumps(snippet, ensure_ascii=False)
        for window, history in histories.items():
            row |= {
                f"chat_history_{window}_link": history_link(profile, window, persona.id),
                f"total_tokens_in_chat_history_{window}": history.tokens,
                f"distance_from_related_snippet_to_query_{window}": history.distance.get(item.about, ""),
                f"num_persona_relevant_tokens_{window}": history.relevant_tokens,
                f"num_persona_irrelevant_tokens_{window}": history.tokens - history.relevant_tokens,
            }
        question_rows.append(row)
    if PROFILES[profile].style:
        Random(f"rows-{seed}-{persona.id}").shuffle(question_rows)
    return question_rows
