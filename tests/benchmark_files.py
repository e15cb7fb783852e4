"""Small files in the layouts of PrefEval, LoCoMo, LongMemEval and PersonaMem v1, with the irregularities of
the real ones. All texts are made up.
"""

import csv
import json
from pathlib import Path
from typing import Any

from rft.cli import main


def write(path: Path, content: Any) -> Path:
    """Writes JSON and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def prefeval(root: Path, topics: tuple[str, ...] = ("pets", "ships", "travel"), rows: int = 2) -> Path:
    """A repository of PrefEval with three forms, options, a stray copy and four turns of filler."""
    data = root / "benchmark_dataset"
    for topic in topics:
        base = [
            {
                "preference": f"I never buy {topic} number {i}.",
                "question": f"Which {topic} suit me on day {i}?",
                "explanation": f"Most {topic} have that number.",
            }
            for i in range(rows)
        ]
        write(data / f"explicit_preference/{topic}.json", base)
        write(
            data / f"implicit_preference/choice-based/{topic}.json",
            [
                {
                    **row,
                    "conversation": {
                        "query": "What do you have?",
                        "assistant_options": "One or two.",
                        "user_selection": "Two, please.",
                        "assistant_acknowledgment": "Good.",
                    },
                }
                for row in base
            ],
        )
        turns = {str(i): {"user": f"u{i}", "assistant": f"a{i}"} for i in range(11)}  # "10" after "9"
        write(
            data / f"implicit_preference/persona-driven/{topic}.json",
            [{**row, "persona": "a sailor", "conversation": turns} for row in base],
        )
        write(
            data / f"mcq_options/{topic}.json",
            [
                {
                    **row,
                    "classification_task_options": [
                        f"{topic} of another number, and that is the long one",
                        f"{topic} with a bow",
                        f"{topic} of wood",
                        f"number {i}",
                    ],
                }
                for i, row in enumerate(base)
            ],
        )
    write(data / f"mcq_options/{topics[0]} copy.json", [])
    (data / "mcq_options/without_suffix").write_text("", encoding="utf-8")
    write(
        data / "filtered_inter_turns.json",
        [
            {
                "conversation": [
                    {"role": role, "content": f"filler {chat} {turn} {role}"}
                    for turn in range(2)
                    for role in ("user", "assistant")
                ]
            }
            for chat in range(2)
        ],
    )
    return root


def locomo(root: Path) -> Path:
    """A LoCoMo with one conversation of two sessions and seven questions."""
    conversation = {
        "speaker_a": "Ann",
        "speaker_b": "Bo",
        "session_2_date_time": "12:09 am on 13 September, 2023",
        "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "Back again."}],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "Look.", "blip_caption": "a photo of a boat"},
            {"speaker": "Ann", "dia_id": "D1:2", "text": "I painted it last year."},
            {"speaker": "Bo", "dia_id": "D1:3", "text": "Lovely."},
        ],
        "session_3_date_time": "1:00 pm on 1 October, 2023",
    }
    qa = [
        {"question": "When did Ann paint?", "answer": 2022, "evidence": ["D1:2"], "category": 2},
        {"question": "What did Ann show?", "answer": "a boat", "evidence": ["D1:1; D1:2"], "category": 1},
        {
            "question": "What did Bo paint?",
            "adversarial_answer": "a boat",
            "evidence": ["D1:2"],
            "category": 5,
        },
        {
            "question": "Did Bo paint it?",
            "answer": "No",
            "adversarial_answer": "Yes",
            "evidence": ["D"],
            "category": 5,
        },
        {"question": "Is Ann a sailor?", "answer": "Perhaps", "evidence": [], "category": 3},
        {"question": "Who came back?", "answer": "Bo", "evidence": ["D2:1"], "category": 4},
        {"question": "Who came back?", "answer": "Bo did", "evidence": ["D2:1"], "category": 4},
    ]
    return write(
        root / "data/locomo10.json", [{"sample_id": "conv-30", "conversation": conversation, "qa": qa}]
    )


def longmemeval(path: Path) -> Path:
    """A LongMemEval with three rows: sessions out of order, an answer that is a number, an abstention."""

    def row(id: str, **changes: Any) -> dict[str, Any]:
        return {
            "question_id": id,
            "question_type": "multi-session",
            "question": "How many boats do I have?",
            "answer": 3,
            "question_date": "2023/05/30 (Tue) 23:40",
            "haystack_session_ids": ["s2", "s1"],
            "haystack_dates": ["2023/05/21 (Sun) 10:00", "2023/05/20 (Sat) 02:21"],
            "haystack_sessions": [
                [
                    {"role": "user", "content": "One more boat.", "has_answer": True},
                    {"role": "assistant", "content": "  "},
                ],
                [{"role": "user", "content": "I have two boats."}, {"role": "assistant", "content": "Nice."}],
            ],
            "answer_session_ids": ["s1", "s2"],
            **changes,
        }

    rows = [
        row("q1"),
        row("q2_abs", answer="You never spoke of trains.", question="How many trains do I have?"),
        row("q3", question_type="knowledge-update", answer="two {boats}"),
    ]
    return write(path, rows)


PERSONAMEM_V1_ROW = {
    "persona_id": "4",
    "question_id": "q-0",
    "question_type": "recall_user_shared_facts",
    "topic": "boats",
    "distance_to_ref_in_tokens": "812",
    "user_question_or_message": "What do I sail?",
    "correct_answer": "(b)",
    "all_options": "['(a) A raft.', \"(b) It's a sloop.\", '(c) A ferry.', '(d) A tub.']",
    "shared_context_id": "c" * 64,
    "end_index_in_shared_context": "3",
}


def personamem_v1(root: Path, *changes: dict[str, str], size: str = "32k") -> Path:
    """A PersonaMem v1 with one context of five messages and one question per dict of changes."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"questions_{size}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, PERSONAMEM_V1_ROW)
        writer.writeheader()
        for change in changes or ({},):
            writer.writerow(PERSONAMEM_V1_ROW | change)
    turns = [
        {"role": "system", "content": "The user sails."},
        {"role": "user", "content": "I bought a sloop."},
        {"role": "assistant", "content": "Fair winds."},
        {"role": "system", "content": "The user sails."},
        {"role": "user", "content": "I sold it."},
    ]
    lines = [{"other": turns[:1]}, {"c" * 64: turns}]
    (root / f"shared_contexts_{size}.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return root


def convert(name: str, source: Path, out: Path, *options: str) -> int:
    return main(["data", "convert", name, str(source), "--out", str(out), *options])


def card(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    return found


def rows(out: Path, split: str = "benchmark") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def history(out: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / row["history"]).read_text(encoding="utf-8"))
    return found


def told(out: Path) -> str:
    return "\n".join(card(out)["notes"])


def edit(path: Path, change: Any) -> None:
    """Applies `change` to the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write(path, content)
