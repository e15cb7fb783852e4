"""Evaluation from Python: a model by its name, on the questions of a split, as `rft evaluate` does it.

Invariant: the answers are those of the command with the same settings, and either resumes the other's folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import DataError
from rft.evaluate.answer import BATCH_SIZE, HISTORIES_AT_ONCE
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
    if isinstance(model, Endpoint) and context == "memory":
        raise DataError(
            "context 'memory': memories are written by a model on this machine; name a checkpoint"
        )
    if isinstance(model, str | Path):
        from rft.models.local import LocalModel

        model = LocalModel(model)
    contexts = {"memory": None, "retrieval": Retrieval()}
    answerer, blind = answerers(
        model,
        contexts.get(context, FullHistoryContext(context)),
        Path(out).expanduser(),
        MemorySettings(chunk_tokens, memory_tokens),
        batch_size,
        controls,
        max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    at_once = BATCH_SIZE if batch_size is None else batch_size
    return evaluate(
        split, out, answerer, limit=limit, batch_size=at_once, samples=samples, blind=blind, seed=seed
    )


def answerers(
    model: Any,
    context: Context | None,
    out: Path,
    memory: MemorySettings,
    batch_size: int | None,
    controls: bool,
    max_new_tokens: int,
    **sampling: Any,
) -> tuple[Any, Any]:
    """The answerer of a model in a context, and its control without the history, or None.

    Args:
        model: an `Endpoint`, or a model on this machine that is loaded.
        context: what it sees of the history; None: memories, which it writes to a folder in `out`.
        out: folder of the run.
        memory: settings of the memories.
        batch_size: histories whose memories are written at the same time (None: 8).
        controls: also ask without the history.
        max_new_tokens: maximum tokens per completion.
        sampling: temperature, seed and, of a model on this machine, token_cache.
    """
    answers: Any
    if isinstance(model, Endpoint):
        from rft.evaluate.endpoint import EndpointAnswers as answers
    else:
        from rft.evaluate.model_answers import ModelAnswers as answers
    if context is not None:
        answerer = answers(model, context, max_new_tokens, **sampling)
    else:
        from rft.evaluate.memory import MEMORIES, Memory, MemoryAnswers

        at_once = HISTORIES_AT_ONCE if batch_size is None else batch_size
        written = Memory(model, out / MEMORIES, memory, **sampling, batch_size=at_once)
        answerer = MemoryAnswers(written, max_new_tokens)
    if not controls or answerer.context == "none":
        return answerer, None
    return answerer, answers(model, FullHistoryContext("none"), max_new_tokens, **sampling)
