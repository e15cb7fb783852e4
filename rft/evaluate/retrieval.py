"""The retrieval baseline: the passages of a history that are nearest to the query, in the order they were said.

Invariant: every passage is a run of whole messages of the history, each message is shown at most once, and time
runs forward. The persona message is no part of the conversation and is never shown.

As the authors' own retrieval baseline: windows of 6 messages that overlap by 2, the 10 best, found with the bare
query; by BM25 (Robertson and Zaragoza, 2009) or by the cosine of embeddings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rft.data.history import History
from rft.data.prompt import SYSTEM, as_said, final_message
from rft.data.question import Question
from rft.errors import DataError

WINDOW, OVERLAP, PASSAGES = 6, 2, 10

FIT = "fit"
"""For `passages`: as many as the model has room for."""

Embed = Callable[[Sequence[str]], Any]
"""Texts to an array (texts, dimensions)."""


class Retrieval:
    """The context "retrieval". passages: how many are shown; "fit": as many of the 10 best as the model has room for.
    embed: for dense retrieval; None for BM25. embedding_model: its name."""

    name = "retrieval"

    def __init__(self, passages: int | str = PASSAGES, embed: Embed | None = None, embedding_model: str | None = None):
        self.fits, self.embed = passages == FIT, embed
        self.passages = PASSAGES if passages == FIT else int(passages)
        self.settings: dict[str, Any] = {"passages": passages, "passage_messages": WINDOW, "passage_overlap": OVERLAP}
        self.settings["retriever"] = f"embeddings: {embedding_model}" if embed else "bm25"
        self._index: tuple[str, Any] = ("", None)  # of the history asked about last
        self._found: tuple[tuple[str, str], list[range]] = (("", ""), [])

    def messages(self, question: Question, history: History | None, passages: int | None = None) -> list[dict[str, str]]:
        """passages: fewer than are shown otherwise."""
        runs = self._search(question, history, passages)
        chosen = [history.turns[i] for run in runs for i in run] if history else []
        return [
            {"role": "system", "content": SYSTEM},
            *map(as_said, chosen),
            {"role": "user", "content": final_message(question)},
        ]

    def read(self, question: Question, history: History | None, passages: int | None = None) -> str:
        runs = self._search(question, history, passages)
        total = len(history.turns) if history else 0
        return f"messages {', '.join(f'{run[0] + 1}-{run[-1] + 1}' for run in runs)} of {total}"

    def counts(self, question: Question, history: History | None) -> range:
        """How many passages may be shown, the most first: with "fit" down to one, else what is set."""
        self._search(question, history, None)
        most = min(self.passages, len(self._found[1]))
        return range(most, 0 if self.fits else most - 1, -1)

    def ways(self, question: Question, history: History | None) -> list[tuple[list[dict[str, str]], str]]:
        """(messages, what `read` says) for each of `counts`; each is for a model that has no room for the one before."""
        return [
            (self.messages(question, history, count), self.read(question, history, count))
            for count in self.counts(question, history)
        ]

    def _search(self, question: Question, history: History | None, passages: int | None) -> list[range]:
        """The chosen messages as runs of indices into `history.turns`."""
        if history is None:
            raise DataError(f"question {question.id}: context 'retrieval' needs the question's history")
        key = (history.id, question.query)
        if self._found[0] != key:
            if self._index[0] != history.id:
                self._index = (history.id, self._build(history))
            self._found = (key, self._index[1].ranked(question.query))
        return _joined(self._found[1][: self.passages if passages is None else passages])

    def _build(self, history: History) -> "_Index":
        turns = history.turns
        starts = range(0, max(len(turns) - OVERLAP, 1), WINDOW - OVERLAP)
        spans = [range(start, min(start + WINDOW, len(turns))) for start in starts]
        texts = ["\n".join(f"{turns[i].role}: {turns[i].content}" for i in span) for span in spans]
        return _Index(spans, _embedding_scores(texts, self.embed) if self.embed else _bm25_scores(texts))


@dataclass(frozen=True)
class _Index:
    """The windows of one history, and what scores them all for a query."""

    spans: list[range]
    scores: Callable[[str], Sequence[float]]

    def ranked(self, query: str) -> list[range]:
        """All windows, the best first; of equals the later one."""
        scores = self.scores(query)
        return [self.spans[i] for i in sorted(range(len(self.spans)), key=lambda i: (-scores[i], -i))]


def _joined(spans: Sequence[range]) -> list[range]:
    """Windows in time order, those that touch or overlap joined."""
    runs: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if runs and span.start <= runs[-1].stop:
            runs[-1] = range(runs[-1].start, max(span.stop, runs[-1].stop))
        else:
            runs.append(span)
    return runs


def _bm25_scores(texts: Sequence[str]) -> Callable[[str], Sequence[float]]:
    import bm25s

    tokens = bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
    if not any(tokens):
        return lambda query: [0.0] * len(texts)  # not a word in it
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)

    def scores(query: str) -> Sequence[float]:
        words = bm25s.tokenize([query], return_ids=False, show_progress=False)[0]
        known = [word for word in words if word in index.vocab_dict]
        return index.get_scores(known).tolist() if known else [0.0] * len(texts)

    return scores


def _embedding_scores(texts: Sequence[str], embed: Embed) -> Callable[[str], Sequence[float]]:
    import numpy as np

    def unit(vectors: Any) -> Any:
        vectors = np.asarray(vectors, dtype=np.float64)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    passages_ND = unit(embed(texts))  # N: windows, D: dimensions
    return lambda query: (passages_ND @ unit(embed([query]))[0]).tolist()
