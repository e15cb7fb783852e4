"""Plays the LLM of `rft questions write`, from what the tests' chats say; every answer depends on the request
and on what was asked before only.

Chats show preferences by sentences such as "For dinner I want red lentils.", "For dinner I now want ...",
"For dinner forget that I want ...", and "Dana wrote: for dinner I want ...".
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peculiar import Call, peculiar

from rft.llm.settings import LlmSettings
from rft.tasks.questions.pipeline import write_questions
from rft.tasks.questions.writer import Settings

SAID = re.compile(r"(Dana wrote: )?[Ff]or (\w+) (forget that )?I (now )?want (\w+\s+\w+)")
SYLLABLES = "ba de fi go lu mar nel pir rok sun tav vim wes yor zan kel".split()
Change = Callable[[str, dict[str, Any], Any], Any]


def invented(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choice(SYLLABLES) for _ in range(2)) for _ in range(count))


def findings(message: dict[str, Any]) -> list[dict[str, Any]]:
    """What a message of a user shows."""
    found = []
    for dana, topic, forget, now, wish in SAID.findall(message["text"]):
        wish = " ".join(wish.split())
        kind = "others" if dana else "withdrawn" if forget else "updated" if now else "revealed"
        found.append(
            {
                "kind": kind,
                "topic": topic,
                "statement": f"Wants {wish}",
                "keyword": wish,
                "message": message["index"],
                "quote": f"want {wish}",
            }
        )
    return found


class QuestionLlm:
    """The play of a `Peculiar` server.

    change(task, given, answer) may replace an answer: by another JSON value, or by a text to send as it is.
    golds: {query: gold}, which a judge without the chats never chooses.
    """

    def __init__(self, change: Change = lambda task, given, answer: answer):
        self.change, self.golds = change, dict[str, str]()
        self.tasks: list[str] = []
        self.givens: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, call: Call) -> None:
        form = call.body.get("response_format")
        if form is None:  # is the limit on the answer length respected?
            return call.answer({"content": "one two"})
        task, given = form["json_schema"]["name"].lower(), json.loads(call.body["messages"][-1]["content"])
        self.givens.append((task, given))
        answer = self.change(task, given, getattr(self, task)(given))
        call.answer({"content": answer if isinstance(answer, str) else json.dumps(answer)})

    def findings(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"preferences": [f for m in given["messages"] if m["role"] == "user" for f in findings(m)]}

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(json.dumps(given))
        wish = given["preference"].removeprefix("Wants ")
        own = given["kind"] == "own"
        used = [own, *[not own] * 3]
        sizes = [given["words"]["gold"], *given["words"]["distractors"]]
        texts = [
            f"{invented(rng, size - 3)} {wish if use else invented(rng, 2)} fits."
            for size, use in zip(sizes, used, strict=True)
        ]
        query = f"What do you suggest for my {given['topic']} {invented(rng, 2)}?"
        self.golds[query] = texts[0]
        return {"query": query, "gold": texts[0], "distractors": texts[1:]}

    def blind(self, given: dict[str, Any]) -> dict[str, Any]:
        gold = self.golds[given["query"]]
        return {"letter": next(letter for letter, text in given["answers"].items() if text != gold)}

    def uses(self, given: dict[str, Any]) -> dict[str, Any]:
        wish = given["preference"].removeprefix("Wants ")
        return {"letters": [x for x, text in given["answers"].items() if wish in text], "query_tells": False}

    def right(self, given: dict[str, Any]) -> dict[str, Any]:
        told = [found for message in given["messages"] for found in findings(message)]
        wish, held = told[-1]["keyword"], told[-1]["kind"] in ("revealed", "updated")
        return {"letters": [x for x, text in given["answers"].items() if (wish in text) == held]}


FOOD = ("red lentils", "blue cheese", "sour plums", "wild rice", "black beans", "white figs")


def talk(*said: str) -> list[dict[str, str]]:
    """A history of these messages of the user, each answered."""
    return [
        m
        for text in said
        for m in ({"role": "user", "content": text}, {"role": "assistant", "content": "Noted."})
    ]


def save(chats: Path, name: str, messages: list[dict[str, str]], person: str = "") -> None:
    (chats / "histories").mkdir(parents=True, exist_ok=True)
    document = {"chat_history": messages, "metadata": {"persona_id": person} if person else {}}
    (chats / "histories" / f"{name}.json").write_text(json.dumps(document))


def of_user(number: int) -> list[dict[str, str]]:
    """A history with a preference of each kind, and small talk after it."""
    wish = FOOD[number % len(FOOD)]
    return talk(
        f"Plan my day. For dinner I want {wish}. Thank you!",
        f"For breakfast I want warm\n  bread{number}.",
        f"For travel I want night trains{number}.",
        f"Translate this. Dana wrote: for lunch I want cold soup{number}.",
        f"A week later: for travel I now want slow boats{number}.",
        f"And for dinner forget that I want {wish}.",
        "What is the capital of Peru?",
    )


def settings(url: str, per_history: int = 25, held_out: float = 0.25, **changes: Any) -> Settings:
    llm = LlmSettings(url, "played", **({"price": (2.0, 8.0), "drafts": 2, "attempts": 1} | changes))
    return Settings(llm, per_history, held_out)


def written(chats: Path, llm: QuestionLlm, **changes: Any) -> dict[str, Any]:
    with peculiar(llm) as server:
        return write_questions(chats, chats.parent / "out", settings(server.url, **changes))


def rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in sorted(out.glob("*.jsonl"))
    }


def dropped(out: Path) -> dict[str, str]:
    return {d["where"]: d["reason"] for d in json.loads((out / "dataset.json").read_text())["dropped"]}
