"""Small dataset folders in the official layout, with the irregularities of the real data, and tokenizers to
read them with.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rft.tasks.personamem.dataset import COLUMNS

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# As the real file has them: a persona message, multimodal content, a forget request that nobody answers (two
# user messages in a row), a request cut off at the end, curly quotes, a tab, an astral emoji, a right-to-left
# line, LaTeX, trailing white space.
IRREGULAR_HISTORY: list[dict[str, Any]] = [
    {
        "role": "system",
        "content": 'You are an AI assistant helping a user with the following persona:\n\n{"name": "Ada"}',
    },
    {
        "role": "user",
        "content": "Could you polish this?  \n\n---\nI’ve been keeping bees — “since spring” \U0001f9e9",
    },
    {
        "role": "assistant",
        "content": "Of course.\n\n1. **Bees**: \\(F_L = S (v \\times \\omega)\\)\tא שלום\n",
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is on this picture?"},
            {
                "type": "image_url",
                "image_url": {"url": "data:image/jpeg;base64,data/photobook_images/dog.jpg"},
            },
        ],
    },
    {"role": "assistant", "content": "<think>\nA dog.\n</think>\n\nA dog by the sea."},
    {"role": "user", "content": "Please forget that I keep bees."},
    {"role": "user", "content": "What shall I read tonight?"},
    {"role": "assistant", "content": "A short story."},
    {"role": "user", "content": "Why do big halls sound so different?"},
]


def real_data() -> Path:
    """The folder with the real sample; skips the test where there is none."""
    root = Path(os.environ.get("RFT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "personamem_v2_sample").is_dir():
        pytest.skip(
            f"no real data in {root} (RFT_REAL_DATA names the folder that holds personamem_v2_sample)"
        )
    return root


def row(**changes: Any) -> dict[str, str]:
    """One CSV row; lists become JSON, everything else its str()."""
    cells: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    cells |= {
        "persona_id": "7",
        "chat_history_32k_link": "data/chat_history_32k/persona7.json",
        "raw_persona_file": "data/raw_data/persona7.json",
        "short_persona": "A clockmaker who sails on Sundays",
        "expanded_persona": '{"short_persona": "A clockmaker who sails on Sundays", "name": "Ada"}',
        "user_query": {"role": "user", "content": "What should I do on a free evening?"},
        "correct_answer": "Stay home and read one story.",
        "incorrect_answers": [
            "Go out and see a short movie.",
            "Cook a meal with many spices.",
            "Call a friend and play chess.",
        ],
        "topic_query": "Leisure",
        "preference": "Likes quiet evenings at home",
        "topic_preference": "Leisure",
        "conversation_scenario": "knowledge_query",
        "pref_type": "neutral_preferences",
        "related_conversation_snippet": [{"role": "user", "content": "I would rather not go out tonight."}],
        "who": "self",
        "updated": "False",
        "sensitive_info": "False",
        "total_tokens_in_chat_history_32k": "1200",
        "distance_from_related_snippet_to_query_32k": "345",
        "num_persona_relevant_tokens_32k": "1200",
        "num_persona_irrelevant_tokens_32k": "0",
    }
    cells |= changes
    return {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in cells.items()}


def write_split(root: Path, name: str, rows: list[dict[str, str]]) -> Path:
    """Write one CSV of a dataset folder."""
    path = root / "benchmark" / "text" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_history(
    root: Path, persona: str, messages: list[dict[str, Any]] | None = None, window: str = "32k"
) -> Path:
    """Write one history file, by default the irregular one."""
    path = root / "data" / f"chat_history_{window}" / f"persona{persona}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"metadata": {"persona_id": int(persona)}, "chat_history": messages or IRREGULAR_HISTORY}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def folder(root: Path, rows: list[dict[str, str]] | None = None, split: str = "benchmark") -> Path:
    """A dataset folder with one split and the irregular history of persona 7."""
    write_split(root, split, rows or [row()])
    write_history(root, "7")
    return root


def tokenizer(template: str = CHATML, vocab: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens of ChatML and of header-style templates."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>", "<|header|>", "<|/header|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [m["content"] for m in IRREGULAR_HISTORY if isinstance(m["content"], str)] + list(row().values())
    core.train_from_iterator(texts * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
