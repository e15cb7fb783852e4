"""A server that speaks the OpenAI chat API and plays an LLM from a script: `python scripted_llm.py LOG
[--share ...]`.

What it does with a request depends on nothing but the request, so a run can be repeated. It prints its port,
and writes a line to LOG for every answer: its kind and the hash of the request. It plays malformed, refusing,
cut-off and slow models, writers who tell the preference in the query or pay no heed to lengths, and judges
who disagree.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SYLLABLES = "ba de fi go lu mar nel pir rok sun tav vim wes yor zan kel".split()
PARSER = argparse.ArgumentParser()
PARSER.add_argument("log")
PARSER.add_argument("--malformed", type=float, default=0.04)
PARSER.add_argument("--refused", type=float, default=0.03)
PARSER.add_argument("--cut", type=float, default=0.02)
PARSER.add_argument("--slow", type=float, default=0.01)
PARSER.add_argument("--seconds", type=float, default=1.5, help="how long a slow answer takes")
PARSER.add_argument("--delay", type=float, default=0.0, help="seconds before every answer")
PARSER.add_argument("--dies", type=int, default=-1, help="answers before the server ends")
PARSER.add_argument("--telling", type=float, default=0.1, help="share of queries that tell the preference")
PARSER.add_argument(
    "--heedless", type=float, default=0.2, help="share of golds that are the longest whatever was asked for"
)
PARSER.add_argument(
    "--guessable", type=float, default=0.2, help="share of questions that judges without history get right"
)
PARSER.add_argument("--contrary", type=float, default=0.1, help="share of votes against what a judge sees")


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choice(SYLLABLES) for _ in range(3)) for _ in range(count))


def play(task: str, given: dict[str, Any], rng: random.Random, args: argparse.Namespace) -> dict[str, Any]:
    if task == "probe":  # is the limit on the answer length respected?
        return {"counted": "one two"}
    if task == "sheet":
        return {
            "short_persona": f"A {words(rng, 1)} keeper",
            "occupation": "keeper",
            "education": "evening college",
            "household": "lives alone",
            "traits": ["calm"],
            "values": ["order"],
            "speaking_style": "plain",
        }
    if task == "preferences":
        stated = []
        for _ in range(given["count"]):
            keyword = words(rng, 2)
            stated.append({"topic": words(rng, 2), "statement": f"Enjoys {keyword}", "keyword": keyword})
        return {"preferences": stated}
    if task == "conflicts":
        return {"remove": [len(given["statements"]) - 1] if rng.random() < 0.3 else []}
    if task == "stated":
        keyword = words(rng, 2)
        return {"topic": "news", "statement": f"Enjoys {keyword}", "keyword": keyword}
    if task == "talk":
        told = given.get("item") or given["preference"].removeprefix("Enjoys ")
        return {
            "messages": [
                {
                    "role": "user",
                    "content": f"Please polish: {words(rng, 30)}, near {told}, {words(rng, 12)}.",
                },
                {"role": "assistant", "content": f"Here you are: {words(rng, 40)}."},
            ]
        }
    if task == "forget":
        told = given["preference"].removeprefix("Enjoys ")
        return {
            "query": f"What about {words(rng, 5)}?",
            "answer": f"Try {told} again.",
            "request": f"Please forget about {told}.",
        }
    if task == "options":
        keyword, sizes = (
            given["preference"].removeprefix("Enjoys "),
            [given["words"]["gold"], *given["words"]["distractors"]],
        )
        if rng.random() < args.heedless:
            sizes[0] = 60
        used = [given["kind"] == "own", *[given["kind"] == "generic"] * 3]
        texts = [
            f"{words(rng, size - 3)} {keyword if use else words(rng, 2)} fits."
            for size, use in zip(sizes, used, strict=True)
        ]
        told = f" I enjoy {keyword}, you know." if rng.random() < args.telling else ""
        return {"query": f"What would be {words(rng, 6)}?{told}", "gold": texts[0], "distractors": texts[1:]}
    raise ValueError(task)


def judge(
    task: str, given: dict[str, Any], rng: random.Random, args: argparse.Namespace, golds: dict[str, str]
) -> dict[str, Any]:
    letter = {text: letter for letter, text in given["answers"].items()}
    gold = letter[golds[given["query"]]]
    against = rng.random() < args.contrary
    if task == "blind":
        guessable = random.Random(given["query"]).random() < args.guessable
        return {"letter": gold if guessable != against else rng.choice([x for x in "abcd" if x != gold])}
    keyword = given["preference"].removeprefix("Enjoys ")
    return {"letters": [x for text, x in letter.items() if keyword in text], "query_tells": against}


def main() -> None:
    args = PARSER.parse_args()
    golds: dict[str, str] = {}  # by query; written by the options task, which any judge's request follows
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            digest = hashlib.sha256(body).hexdigest()
            rng = random.Random(digest)
            request = json.loads(body)
            form = request.get("response_format", {"json_schema": {"name": "probe"}})
            task = form["json_schema"]["name"].lower()
            given = json.loads(request["messages"][-1]["content"]) if task != "probe" else {}
            time.sleep(args.delay)
            content, refusal, finish, kind, chance = None, None, "stop", "valid", rng.random()
            if task in ("blind", "uses"):
                content = json.dumps(judge(task, given, rng, args, golds))
            else:
                played = play(task, given, rng, args)
                if task == "options":
                    with lock, open(args.log + ".golds", "a") as file:
                        golds[played["query"].strip()] = played["gold"]
                        file.write(json.dumps([played["query"], played["gold"]]) + "\n")
                content = json.dumps(played)
            for name, share in (
                ("malformed", args.malformed),
                ("refused", args.refused),
                ("cut", args.cut),
                ("slow", args.slow),
            ):
                if 0 <= chance < share:
                    kind = name
                chance -= share
            if kind == "malformed":
                content = "Here is what you asked for: " + content
            elif kind == "refused":
                content, refusal = None, "I would rather not."
            elif kind == "cut":
                content, finish = content[: len(content) // 2], "length"
            elif kind == "slow":
                time.sleep(args.seconds)
            answer = json.dumps(
                {
                    "id": digest[:12],
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": finish,
                            "message": {"role": "assistant", "content": content, "refusal": refusal},
                        }
                    ],
                    "usage": {
                        "prompt_tokens": len(body) // 4,
                        "completion_tokens": len(content or "") // 4,
                        "total_tokens": (len(body) + len(content or "")) // 4,
                    },
                }
            ).encode()
            with lock, open(args.log, "a") as file:
                if file.tell() and len(Path(args.log).read_text().splitlines()) == args.dies:
                    os._exit(0)
                file.write(f"{kind} {task} {digest}\n")
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            try:
                self.wfile.write(answer)
            except OSError:
                pass  # the client would not wait

        def log_message(self, *_: Any) -> None:
            pass

    try:
        with open(args.log + ".golds") as file:  # a server that is started again
            golds.update((query.strip(), gold) for query, gold in map(json.loads, file))
    except FileNotFoundError:
        pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
