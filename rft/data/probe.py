"""A small trained guesser: can the gold be told from the four options alone?

Invariant: it never sees the query, the history or a label, and it is scored on people it was not trained on. On fair data it
stays at chance, however many questions there are; what it scores above chance can be learned by any policy without reading.

Model: a conditional logit (McFadden 1974), p(option i) = exp(w.x_i) / sum_j exp(w.x_j), trained by Adam with an L2 penalty.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

from rft.data.question import LETTERS, Question

WORDS = 256  # hashed words
LARGEST = 6000  # questions; more add time, not insight
FOLDS = 5
STEPS, RATE, PENALTY = 150, 0.05, 1e-3


def probe(questions: Sequence[Question]) -> dict[str, Any] | None:
    """Cross-validated accuracy as {"accuracy", "n", "folds"}; None for fewer than 20 questions.

    Folds are by persona where there are at least as many personas as folds, else by question.
    """
    if len(questions) < 20:
        return None
    import numpy as np

    questions = questions[:: -(-len(questions) // LARGEST)]
    personas = sorted({q.persona_id for q in questions})
    number = {persona: i for i, persona in enumerate(personas)}
    by_persona = len(personas) >= FOLDS
    fold = np.array([(number[q.persona_id] if by_persona else i) % FOLDS for i, q in enumerate(questions)])
    features = np.array([[_features(q.options, i) for i in range(4)] for q in questions], dtype=np.float32)
    similar = np.array([_similarity(q.options) for q in questions], dtype=np.float32)
    features = np.concatenate([features, similar[..., None]], axis=2)
    spread = features.std(axis=(0, 1))
    features = (features - features.mean(axis=(0, 1))) / np.where(spread > 0, spread, 1)
    gold = np.array([LETTERS.index(q.gold) for q in questions])
    right = 0
    for held_out in range(FOLDS):
        test = fold == held_out
        weights = _train(features[~test], gold[~test])
        right += int(((features[test] @ weights).argmax(axis=1) == gold[test]).sum())
    return {"accuracy": right / len(questions), "n": len(questions), "folds": FOLDS}


def _train(features: Any, gold: Any) -> Any:
    import numpy as np

    weights = np.zeros(features.shape[2], dtype=np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    chosen = np.eye(4, dtype=np.float32)[gold]
    flat = features.reshape(-1, features.shape[2])
    for step in range(1, STEPS + 1):
        scores = features @ weights
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = (odds / odds.sum(axis=1, keepdims=True) - chosen).reshape(-1)
        gradient = error @ flat / len(gold) + PENALTY * weights
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def _features(options: Sequence[str], index: int) -> list[float]:
    """Form and words of one option, relative to the other three where it has a size."""
    text = options[index]
    lengths = [len(option) for option in options]
    words = re.findall(r"\w+", text.casefold())
    form = [
        len(text) / (sum(lengths) / 4), len(text) == max(lengths), len(text) == min(lengths), len(words),
        len(re.findall(r"[.!?](?:\s|$)", text)), text.count(","), text.count("?") + text.count("!"),
        len(re.findall(r"\d", text)), len(re.findall(r"[A-Z]", text)), len(re.findall(r"[—–\-()\"“”‘’':;\[\]]", text)),
        sum(map(len, words)) / max(len(words), 1), *(index == i for i in range(4)),
    ]  # fmt: skip
    hashed = [0.0] * WORDS
    for word in words:
        hashed[zlib.crc32(word.encode()) % WORDS] = 1.0
    return [float(value) for value in form] + hashed


def _similarity(options: Sequence[str]) -> list[float]:
    """How much of its vocabulary each option shares with the other three."""
    words = [set(re.findall(r"\w+", option.casefold())) for option in options]
    return [
        sum(len(words[i] & words[j]) / max(len(words[i] | words[j]), 1) for j in range(4) if j != i) / 3 for i in range(4)
    ]
