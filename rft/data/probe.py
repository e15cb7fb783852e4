"""A small trained probe that predicts the gold from the options alone.

Invariant: the probe never sees the query, the history or a label, and it is scored only on people it was not
trained on. On fair data it stays at chance for any number of questions. Any policy can learn a score above
chance without the history.

Model: a conditional logit (McFadden 1974), p(option i) = exp(w.x_i) / sum_j exp(w.x_j), with an L2
penalty, fitted by L-BFGS (scipy). Questions may have different numbers of options: shapes are (B, O, F), O
the largest number, and rows of options that a question does not have are masked.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

WORDS = 256  # buckets of hashed words
LARGEST = 6000  # at most N questions are trained on; more cost time and add no insight
BLOCK = 4096  # questions scored per batch
FEWEST = 20  # with fewer questions, nothing is trained
FOLDS = 5
STEPS, PENALTY = 200, 1e-3
LOWEST = -1e9  # the score of an option that a question does not have


class Asked(NamedTuple):
    """The parts of a question that a rule may use; `gold`, an index into `options`, is used only for
    scoring."""

    persona_id: str
    query: str
    options: Sequence[str]
    gold: int


def folds(personas: Sequence[str]) -> list[int]:
    """Returns the fold of each question: by persona if there are at least as many personas as folds,
    otherwise by question."""
    number = {persona: i for i, persona in enumerate(sorted(set(personas)))}
    by_persona = len(number) >= FOLDS
    return [(number[persona] if by_persona else i) % FOLDS for i, persona in enumerate(personas)]


def choices(questions: "Sequence[Asked]") -> list[int] | None:
    """Returns the option (from 0) chosen for each question, by the probe trained on the other folds; None
    below 20 questions."""
    if len(questions) < FEWEST:
        return None
    import numpy as np

    fold = np.array(folds([question.persona_id for question in questions]))
    thinned = slice(None, None, -(-len(questions) // LARGEST))
    most = max(len(question.options) for question in questions)
    features_BOF, absent_BO = _features([question.options for question in questions[thinned]], most)
    known_NF = features_BOF[~absent_BO]
    mean_F, spread_F = known_NF.mean(axis=0), known_NF.std(axis=0)
    spread_F[spread_F == 0] = 1
    features_BOF = (features_BOF - mean_F) / spread_F
    gold_B, fold_B = np.array([question.gold for question in questions[thinned]]), fold[thinned]
    weights_FK = np.stack(
        [
            _train(features_BOF[mask_B], absent_BO[mask_B], gold_B[mask_B])
            for mask_B in (fold_B != held_out for held_out in range(FOLDS))
        ],
        axis=1,
    )
    chosen: list[int] = []
    for start in range(0, len(questions), BLOCK):
        block = questions[start : start + BLOCK]
        features_BOF, absent_BO = _features([question.options for question in block], most)
        scores_BOK = (features_BOF - mean_F) / spread_F @ weights_FK
        scores_BOK[absent_BO] = -np.inf
        held_out_B = fold[start : start + BLOCK]
        chosen += scores_BOK[np.arange(len(block)), :, held_out_B].argmax(axis=1).tolist()
    return chosen


def _train(features_BOF: Any, absent_BO: Any, gold_B: Any) -> Any:
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    gold_BO = np.eye(features_BOF.shape[1], dtype=np.float32)[gold_B]
    flat = features_BOF.reshape(-1, features_BOF.shape[2])
    questions = max(len(gold_B), 1)
    masked = bool(absent_BO.any())

    def loss(weights_F: Any) -> tuple[float, Any]:
        scores_BO = features_BOF @ weights_F.astype(np.float32)
        if masked:
            scores_BO[absent_BO] = LOWEST
        logp_BO = log_softmax(scores_BO, axis=1)
        error = (np.exp(logp_BO) - gold_BO).reshape(-1)
        value = -(logp_BO * gold_BO).sum() / questions + PENALTY / 2 * (weights_F @ weights_F)
        return float(value), (error @ flat) / questions + PENALTY * weights_F

    start_F = np.zeros(flat.shape[1])
    return minimize(loss, start_F, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x


def _features(options: Sequence[Sequence[str]], most: int) -> tuple[Any, Any]:
    """Form, words and mean overlap of each option of each question, as float32 (questions, `most`, features),
    and which of the options a question does not have."""
    import numpy as np

    rows = [
        [[*_form(given, i, most), total / (len(given) - 1)] for i, total in enumerate(overlaps(given))]
        for given in options
    ]
    width = len(rows[0][0])
    padded = [row + [[0.0] * width] * (most - len(row)) for row in rows]
    absent_BO = np.array([[i >= len(row) for i in range(most)] for row in rows])
    return np.array(padded, dtype=np.float32), absent_BO


def _form(options: Sequence[str], index: int, most: int) -> list[float]:
    """Form and words of one option; its length is relative to the mean length of the question's options."""
    text = options[index]
    lengths = [len(option) for option in options]
    in_text = words(text)
    form = [
        len(text) / (sum(lengths) / len(lengths)),
        len(text) == max(lengths),
        len(text) == min(lengths),
        len(in_text),
        len(re.findall(r"[.!?](?:\s|$)", text)),
        text.count(","),
        text.count("?") + text.count("!"),
        len(re.findall(r"\d", text)),
        len(re.findall(r"[A-Z]", text)),
        len(re.findall(r"[—–\-()\"“”‘’':;\[\]]", text)),
        sum(map(len, in_text)) / max(len(in_text), 1),
        *(index == i for i in range(most)),
    ]
    hashed = [0.0] * WORDS
    for word in in_text:
        hashed[zlib.crc32(word.encode()) % WORDS] = 1.0
    return [float(value) for value in form] + hashed


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case."""
    return re.findall(r"\w+", text.casefold())


def overlaps(options: Sequence[str]) -> list[float]:
    """Returns the vocabulary overlap (Jaccard) of each option with the others, summed over them."""
    of_option = [set(words(option)) for option in options]
    return [
        sum(len(own & other) / max(len(own | other), 1) for other in of_option if other is not own)
        for own in of_option
    ]
