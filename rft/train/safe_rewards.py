"""Isolation of reward failures: a row whose reward fails is logged and masked, and never enters an advantage.

| the reward function | what happens |
|---|---|
| raises, or is not done within `reward_seconds` | called again row by row; rows that fail alone become None,
logged, counted |
| returns NaN, an infinity or no number for a row | that row becomes None, logged, counted |
| returns more or fewer numbers than rows | the run stops: numbers cannot be matched to rows |
| fails in every row, of two or more | the run stops, with the first failure |

None marks a completion that could not be scored: TRL leaves it out of its group and gives it no advantage. A
reward that compares rows with one another should handle its own failures, because it is called again with one
row at a time.
"""

import asyncio
import functools
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rft.errors import TrainingError

logger = logging.getLogger(__name__)

SHOWN = 3  # failures per batch that are logged in full
FAILED = "reward/failed_rows"


class RewardTimeout(Exception):
    """Timeout of a reward function."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limits the time of a block.

    The limit uses the signals of the main thread; in other threads there is none. Code that never returns to
    Python (a blocking C extension) is left to `stall_minutes`.

    Args:
        seconds: Time after which the block is interrupted.

    Raises:
        RewardTimeout: Inside the block, after `seconds`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise RewardTimeout(f"not finished after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def isolate_failures(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Wraps a reward function so that its failures are handled as in the table above.

    Args:
        function: A reward function. Its name is kept, and an asynchronous function stays asynchronous.
        seconds: Time limit of a call with all rows; a call with one row gets its share.

    Returns:
        The wrapped function. It raises TrainingError if the run must stop.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if asyncio.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(**columns: Any) -> list[float | None]:
            async def ask(limit: float, **rows: Any) -> Any:
                return await asyncio.wait_for(function(**rows), limit)

            try:
                return _checked(name, columns, await ask(seconds, **columns))
            except TrainingError:
                raise
            except Exception as error:
                _report(name, "all rows at once", error)
            found: list[Any] = []
            for i in range(_count(columns)):
                try:
                    found.append(_single(name, await ask(seconds / _count(columns), **_row(columns, i))))
                except TrainingError:
                    raise
                except Exception as error:
                    found.append(error)
            return _masked(name, columns, found)

        return later

    @functools.wraps(function)
    def now(**columns: Any) -> list[float | None]:
        try:
            with time_limit(seconds):
                scores = function(**columns)
            return _checked(name, columns, scores)
        except TrainingError:
            raise
        except Exception as error:
            _report(name, "all rows at once", error)
        found: list[Any] = []
        for i in range(_count(columns)):
            try:
                with time_limit(seconds / _count(columns)):
                    score = function(**_row(columns, i))
                found.append(_single(name, score))
            except TrainingError:
                raise
            except Exception as error:
                found.append(error)
        return _masked(name, columns, found)

    return now


def _count(columns: dict[str, Any]) -> int:
    return len(columns["completions"])


def _row(columns: dict[str, Any], i: int) -> dict[str, Any]:
    count = _count(columns)
    return {
        key: value[i : i + 1] if isinstance(value, (list, tuple)) and len(value) == count else value
        for key, value in columns.items()
    }


def _single(name: str, scores: Any) -> Any:
    if len(scores) != 1:
        raise TrainingError(
            f"reward {name} returned {len(scores)} numbers for 1 completion; it must return one for each"
        )
    return scores[0]


def _checked(name: str, columns: dict[str, Any], scores: Any) -> list[float | None]:
    count = _count(columns)
    if not hasattr(scores, "__len__") or len(scores) != count:
        given = f"{len(scores)} numbers" if hasattr(scores, "__len__") else repr(scores)[:80]
        raise TrainingError(
            f"reward {name} returned {given} for {count} completions; it must return one for each, None if it"
            " cannot score"
        )
    return _masked(name, columns, list(scores))


def _masked(name: str, columns: dict[str, Any], found: list[Any]) -> list[float | None]:
    """Keeps numbers and None; logs everything else and replaces it by None."""
    scores: list[float | None] = []
    wrong: list[tuple[int, Any]] = []
    for i, score in enumerate(found):
        if score is not None and (isinstance(score, Exception) or not _is_number(score)):
            wrong.append((i, score))
            score = None
        scores.append(None if score is None else float(score))
    for i, what in wrong[:SHOWN]:
        _report(name, _where(columns, i), what)
    if len(wrong) > SHOWN:
        logger.warning("reward %s: %d more rows failed", name, len(wrong) - SHOWN)
    if len(wrong) == len(found) > 1:
        raise TrainingError(
            f"reward {name} failed in all {len(found)} rows ({_said(wrong[0][1])}); nothing can be learned"
            " from it"
        )
    if wrong and (log := columns.get("log_metric")):
        log(FAILED, len(wrong) / len(found))
    return scores


def _is_number(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except TypeError:
        return False


def _where(columns: dict[str, Any], i: int) -> str:
    ids = columns.get("question_id")
    return f"question {ids[i]} (row {i} of the batch)" if ids else f"row {i} of the batch"


def _said(what: Any) -> str:
    return f"{type(what).__name__}: {what}" if isinstance(what, Exception) else f"returned {what!r}"


def _report(name: str, where: str, what: Any) -> None:
    logger.warning("reward %s, %s: %s", name, where, _said(what)[:300])
