"""Your own chats to a memory: an export becomes a history, a model reads it into a memory and answers.

    python examples/chats_to_memory.py                           examples/chats.jsonl
    python examples/chats_to_memory.py export.zip MODEL          your export, your model

The default model is the quickstart's base (1 M parameters), which shows the steps but writes nonsense.
"""

import sys
from pathlib import Path

import rft


def main(source: Path, name: str, out: Path) -> None:
    """Imports the chats, reads the first user's history into a memory, and asks a question."""
    record = rft.import_chats([source], out / "chats")
    for user, counts in record["users"].items():
        print(f"{user}: {counts['messages']['kept']} messages")
    history = min((out / "chats/histories").glob("*.json"))
    memory = rft.Memory(
        out / "memory.md", rft.LocalModel(name, dtype="float32"), chunk_tokens=128, memory_tokens=64
    )
    for turn in memory.read(history):
        print(f"chunk {turn.number} of {turn.of}: {memory.agent.count(turn.update.memory)} tokens of memory")
    print(f"{memory.path}:\n{memory.text or '(empty)'}")
    print("answer:", memory.answer("What shall I drink tonight?", max_new_tokens=32))


if __name__ == "__main__":
    given = sys.argv[1:]
    try:
        source = Path(given[0]) if given else Path(__file__).with_name("chats.jsonl")
        name = given[1] if given[1:] else "recipes/quickstart/base"
        main(source, name, Path("out/example_memory") / source.stem)
    except rft.RftError as error:
        sys.exit(f"error: {error}")
