"""The retrieval baseline: the passages of a history that best match the query, in chronological order.

Invariant: every passage is a run of complete messages of the history, each message is shown at most once, and
messages stay in chronological order. The persona message is not part of the conversation and is never shown.

Same protocol as the authors' retrieval baseline: passages of 6 messages that overlap by 2; the query alone
selects the 10 best, by BM25 (Robertson and Zaragoza, 2009) or by the cosine of embeddings.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import JsonValue

from rft.data.history import History
from rft.data.prompt import SYSTEM, as_said, final_message
from rft.data.question import Question
from rft.errors import DataError

WINDOW, OVERLAP, PASSAGES = 6, 2, 10

FIT = "fit"
"""A value of `passages`: as many as fit into the model."""

Embed = Callable[[Sequence[str]], Any]
"""Maps texts to an array of shape (texts, dimensions)."""


class Retrieval:
    """The context "retrieval".

    Args:
        passages: number of passages shown; "fit": as many of the 10 best as fit into the model.
        embed: embeds texts for dense retrieval; None: BM25.
        embedding_model: name of the embedding model.
    """

    name = "retrieval"

    def __init__(
        self, passages: int | str = PASSAGES, embed: Embed | None = None, embedding_model: str | None = None
    ):
        self.fits, self.embed = passages == FIT, embed
        self.passages = PASSAGES if passages == FIT else int(passages)
        self.settings: dict[str, JsonValue] = {
            "passages": passages,
            "passage_messages": WINDOW,
            "passage_overlap": OVERLAP,
        }
        self.settings["retriever"] = f"embeddings: {embedding_model}" if embed else "bm25"
        self._index: tuple[str, Any] = ("", None)  # (history id, index) of the last history
        self._ranking: tuple[tuple[str, str], list[range]] = (("", ""), [])

    def messages(
        self, question: Question, history: History | None, passages: int | None = None
    ) -> list[dict[str, str]]:
        """The conversation: system prompt, the chosen messages, then the question.

        Args:
            question: its query selects the passages.
            history: its messages.
            passages: number of passages shown; None: as set for the context.
        """
        runs = self._search(question, history, passages)
        chosen = [history.turns[i] for run in runs for i in run] if history else []
        return [
            {"role": "system", "content": SYSTEM},
            *as_said(chosen),
            {"role": "user", "content": final_message(question)},
        ]

    def read(self, question: Question, history: History | None, passages: int | None = None) -> str:
        """The numbers of the messages shown (from 1), in words for people."""
        runs = self._search(question, history, passages)
        total = len(history.turns) if history else 0
        return f"messages {', '.join(f'{run[0] + 1}-{run[-1] + 1}' for run in runs)} of {total}"

    def counts(self, question: Question, history: History | None) -> range:
        """The numbers of passages to try, largest first: down to one with "fit", otherwise only the
        configured number."""
        self._search(question, history, None)
        most = min(self.passages, len(self._ranking[1]))
        return range(most, 0 if self.fits else most - 1, -1)

    def ways(self, question: Question, history: History | None) -> list[tuple[list[dict[str, str]], str]]:
        """(messages, text of `read`) for each of `counts`, longest first: try the next if one does not fit
        into the model."""
        return [
            (self.messages(question, history, count), self.read(question, history, count))
            for count in self.counts(question, history)
        ]

    def _search(self, question: Question, history: History | None, passages: int | None) -> list[range]:
        """The chosen messages as runs of indices into `history.turns`."""
        if history is None:
            raise DataError(f"question {question.id}: context 'retrieval' needs the question's history")
        key = (history.id, question.query)
        if self._ranking[0] != key:
            if self._index[0] != history.id:
                self._index = (history.id, self._build(history))
            self._ranking = (key, self._index[1](question.query))
        return _joined(self._ranking[1][: self.passages if passages is None else passages])

    def _build(self, history: History) -> Callable[[str], list[range]]:
        """A function that ranks all passages of the history for a query: the best first, on ties the later
        one first."""
        turns = history.turns
        starts = range(0, max(len(turns) - OVERLAP, 1), WINDOW - OVERLAP)
        spans = [range(start, min(start + WINDOW, len(turns))) for start in starts]
        texts = ["\n".join(f"{turns[i].role}: {turns[i].content}" for i in span) for span in spans]
        scores_of = _embedding_scores(texts, self.embed) if self.embed else _bm25_scores(texts)

        def ranked(query: str) -> list[range]:
            scores = scores_of(query)
            return [spans[i] for i in sorted(range(len(spans)), key=lambda i: (-scores[i], -i))]

        return ranked


def _joined(spans: Sequence[range]) -> list[range]:
    """Passages in chronological order; those that touch or overlap are joined."""
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
        return lambda query: [0.0] * len(texts)  # the history has no words
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)

    def scores(query: str) -> Sequence[float]:
        words = bm25s.tokenize([query], return_ids=False, show_progress=False)[0]
        indexed_words = [word for word in words if word in index.vocab_dict]
        return index.get_scores(indexed_words).tolist() if indexed_words else [0.0] * len(texts)

    return scores


def _embedding_scores(texts: Sequence[str], embed: Embed) -> Callable[[str], Sequence[float]]:
    import numpy as np

    def unit(vectors: Any) -> Any:
        vectors = np.asarray(vectors, dtype=np.float64)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    passages_ND = unit(embed(texts))  # N: passages, D: dimensions
    return lambda query: (passages_ND @ unit(embed([query]))[0]).tolist()
