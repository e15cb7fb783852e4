"""Evaluation from Python: a model by its name, on the questions of a split, as `rft evaluate` does it.

Invariant: the answers are those of the command with the same settings, and either resumes the other's folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import DataError
from rft.evaluate.context import CONTEXTS, Context, FullHistoryContext
from rft.evaluate.retrieval import Retrieval
from rft.evaluate.run import evaluate
from rft.memory.agent import MemorySettings
from rft.models.endpoint import Endpoint
from rft.records.summary import Summary
from rft.tasks.base import Split

if TYPE_CHECKING:
    from rft.models.local import Generator


def evaluate_model(
    model: "str | Path | Generator | Endpoint",
    split: Split,
    out: Path | str,
    *,
    context: str = "history",
    limit: int | None = None,
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    samples: int = 1,
    batch_size: int | None = None,
    chunk_tokens: int = MemorySettings.chunk_tokens,
    memory_tokens: int = MemorySettings.memory_tokens,
    controls: bool = True,
    seed: int = 0,
) -> Summary:
    """Asks a model the questions of a split and writes `results.jsonl`, `summary.json` and `report.html` to
    `out`. Questions that are already answered there are not asked again.

    Args:
        model: checkpoint folder (full or LoRA adapter), Hub id, a loaded `LocalModel`, or an `Endpoint`.
        split: the questions and their histories, as `load_split` returns them.
        out: folder of the run.
        context: what the model sees of the history: "history", "history_no_persona", "none", "retrieval", or
            "memory" (not of an `Endpoint`), which it writes before it is asked.
        limit: only the first `limit` questions (None: all).
        max_new_tokens: maximum tokens per completion.
        temperature: 0 is greedy.
        samples: completions per prompt; with several, set a temperature.
        batch_size: questions per batch of a model on this machine (None: 32), or histories whose memories
            are written at the same time (None: 8).
        chunk_tokens: context "memory": maximum tokens of a history that are read at a time.
        memory_tokens: context "memory": maximum tokens of a memory.
        controls: also ask without the history.
        seed: random seed of sampling and of the bootstrap.

    Returns:
        The summary, as in `summary.json`: `accuracy`, `ci95`, `n`, `controls` and so on.

    Raises:
        DataError: an unknown context, `out` contains results of another run, or no question was answered.
        CheckpointError: there is no such model.
        ModelError: a prompt does not fit into the model.
    """
    if context not in CONTEXTS:
        raise DataError(f"unknown context {context!r}; expected one of {', '.join(CONTEXTS)}")
    if samples > 1 and temperature == 0:
        raise DataError(f"samples {samples}: at temperature 0 all samples are the same; set a temperature")
    asking: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    blind = FullHistoryContext("none") if controls and context != "none" else None
    memory = MemorySettings(chunk_tokens, memory_tokens)
    answerer, control = _answerers(model, context, blind, Path(out).expanduser(), batch_size, memory, asking)
    return evaluate(
        split, out, answerer, limit=limit, samples=samples, blind=control, seed=seed, **_given(batch_size)
    )


def _given(batch_size: int | None) -> dict[str, Any]:
    return {} if batch_size is None else {"batch_size": batch_size}


def _answerers(
    model: Any,
    context: str,
    blind: Context | None,
    out: Path,
    batch_size: int | None,
    memory: MemorySettings,
    asking: dict[str, Any],
) -> tuple[Any, Any]:
    """The answerer, and its control without the history or None."""
    shown: Context = Retrieval() if context == "retrieval" else FullHistoryContext(context)
    if isinstance(model, Endpoint):
        from rft.evaluate.endpoint import EndpointAnswers

        if context == "memory":
            raise DataError(
                "context 'memory': memories are written by a model on this machine; name a checkpoint"
            )
        return EndpointAnswers(model, shown, **asking), blind and EndpointAnswers(model, blind, **asking)
    from rft.evaluate.memory import MEMORIES, MemoryAnswers
    from rft.evaluate.model_answers import ModelAnswers
    from rft.models.local import LocalModel

    local = LocalModel(model) if isinstance(model, str | Path) else model
    control = blind and ModelAnswers(local, blind, **asking)
    if context == "memory":
        folder = out / MEMORIES
        return MemoryAnswers(local, folder, memory, **_given(batch_size), **asking), control
    return ModelAnswers(local, shown, **asking), control
