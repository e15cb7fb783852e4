"""Scores rollouts with the rewards of a recipe: one contract in every training (`reward.Example`).

| the reward function | what happens |
|---|---|
| raises, or is not done within `reward_seconds` | called row by row; rows that fail become None, logged |
| returns NaN, an infinity or no number for a row | that row becomes None, logged |
| returns more or fewer numbers than rows | the run stops: numbers cannot be matched to rows |
| fails in every row, of two or more | the run stops, with the first failure |

Logged failures are counted in `reward/failed_rows`. None marks a completion that could not be scored: it is
left out of its group and has no advantage. A reward that compares rows with one another should handle its own
failures, because it is called again with one row at a time.
"""

import asyncio
import inspect
import logging
import math
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import reward
from reward.memory import COLUMNS as MEMORY_COLUMNS
from rft.data.prompt import final_message
from rft.data.question import Question
from rft.errors import RecipeError, TrainingError
from rft.metrics.table import named
from rft.tasks.load import task_named
from rft.tasks.memory_targets import MemoryTargets
from rft.train.metrics import check_logged
from rft.train.rollout import Rollout

logger = logging.getLogger(__name__)

SHOWN = 3  # failures per batch that are logged in full
FAILED = named("reward/failed_rows").name


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


class Reward:
    """A reward function whose failures are handled as in the table above.

    Args:
        function: Takes columns by name, synchronous or asynchronous.
        seconds: Time limit of a call with all rows; a call with one row gets its share.
        columns: The names that exist.

    Raises:
        RecipeError: If the function requires a column that does not exist.
    """

    def __init__(self, function: Callable[..., Any], seconds: float, columns: Sequence[str] = reward.COLUMNS):
        self.function, self.seconds = function, seconds
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        called = (
            function if inspect.isroutine(function) or hasattr(function, "func") else type(function).__call__
        )
        self.is_async = inspect.iscoroutinefunction(called)
        parameters = inspect.signature(function).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        # a function without **columns gets those that it names
        takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
        self.takes = None if takes_all else {parameter.name for parameter in named}
        for parameter in named:
            if parameter.default is parameter.empty and parameter.name not in columns:
                raise RecipeError(
                    f"reward {self.__name__}: there is no column {parameter.name}; a reward can take"
                    f" {', '.join(columns)}"
                )

    async def call(self, columns: Mapping[str, Any], seconds: float) -> Any:
        """Calls the function, with a time limit, and returns whatever it returns or raises."""
        taken = {name: value for name, value in columns.items() if self.takes is None or name in self.takes}
        if self.is_async:
            return await asyncio.wait_for(self.function(**taken), seconds)
        with time_limit(seconds):
            return self.function(**taken)

    async def __call__(self, **columns: Any) -> list[float | None]:
        """Scores N rows; None for a row that could not be scored.

        Raises:
            TrainingError: If the run must stop.
        """
        try:
            return self.checked(columns, await self.call(columns, self.seconds))
        except TrainingError:
            raise
        except Exception as error:
            self._report("all rows at once", error)
        count, found = len(columns["completions"]), []
        for i in range(count):
            try:
                scores = await self.call(_row(columns, i), self.seconds / count)
                if len(scores) != 1:
                    raise TrainingError(
                        f"reward {self.__name__} returned {len(scores)} numbers for 1 completion; it must"
                        " return one for each"
                    )
                found.append(scores[0])
            except TrainingError:
                raise
            except Exception as error:
                found.append(error)
        return self._masked(columns, found)

    def checked(self, columns: Mapping[str, Any], scores: Any) -> list[float | None]:
        """Returns what the function returned for all rows as numbers and None.

        Raises:
            TrainingError: If these are not as many as rows, or if none is a number.
        """
        count = len(columns["completions"])
        if not hasattr(scores, "__len__") or len(scores) != count:
            given = f"{len(scores)} numbers" if hasattr(scores, "__len__") else repr(scores)[:80]
            raise TrainingError(
                f"reward {self.__name__} returned {given} for {count} completions; it must return one for"
                " each, None if it cannot score"
            )
        if len(getattr(scores, "shape", (count,))) > 1:
            raise TrainingError(
                f"reward {self.__name__} returned an array of shape {tuple(scores.shape)} for {count}"
                " completions; it must return one number for each: flatten it"
            )
        return self._masked(columns, list(scores))

    def _masked(self, columns: Mapping[str, Any], found: list[Any]) -> list[float | None]:
        """Keeps numbers and None; logs everything else and replaces it by None."""
        wrong = [(i, score) for i, score in enumerate(found) if score is not None and not _is_number(score)]
        for i, failure in wrong[:SHOWN]:
            self._report(_where(columns, i), failure)
        if len(wrong) > SHOWN:
            logger.warning("reward %s: %d more rows failed", self.__name__, len(wrong) - SHOWN)
        if len(wrong) == len(found) > 1:
            raise TrainingError(
                f"reward {self.__name__} failed in all {len(found)} rows ({_described(wrong[0][1])});"
                " nothing can be learned from it"
            )
        if wrong and (log := columns.get("log_metric")):
            log(FAILED, len(wrong) / len(found))
        failed = {i for i, _ in wrong}
        return [None if score is None or i in failed else float(score) for i, score in enumerate(found)]

    def _report(self, where: str, failure: Any) -> None:
        logger.warning("reward %s, %s: %s", self.__name__, where, _described(failure)[:300])


def _row(columns: Mapping[str, Any], i: int) -> dict[str, Any]:
    count = len(columns["completions"])
    return {
        key: value[i : i + 1] if isinstance(value, (list, tuple)) and len(value) == count else value
        for key, value in columns.items()
    }


def _is_number(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except (TypeError, ValueError):
        return False


def _where(columns: Mapping[str, Any], i: int) -> str:
    ids = columns.get("question_id")
    return f"question {ids[i]} (row {i} of the batch)" if ids else f"row {i} of the batch"


def _described(failure: Any) -> str:
    return (
        f"{type(failure).__name__}: {failure}" if isinstance(failure, Exception) else f"returned {failure!r}"
    )


def weighted(weights: Sequence[float], scores: Sequence[float]) -> float:
    """Returns the weighted sum of the scores that are not NaN; NaN if all are."""
    known = [w * score for w, score in zip(weights, scores, strict=True) if not math.isnan(score)]
    return math.fsum(known) if known else math.nan


def question_columns(question: Question) -> dict[str, Any]:
    """Returns the fields of an `Example` that follow from its question."""
    case, fact = task_named(question.task).judged(question)
    return {
        "prompt": final_message(question),
        "question_id": question.id,
        "history_id": question.history_id,
        "persona_id": question.persona_id,
        "query": question.query,
        "options": list(question.options),
        "answer": None if question.open_ended else question.gold,
        "accepted": list(question.accepted) if question.compared else [],
        "abstain": question.abstain and question.compared,
        "labels": dict(question.labels),
        "kind": question.kind,
        "fact": fact,
        "judge_case": case,
    }


class Scorer:
    """Scores all answers, and memories if there are rewards for them.

    Args:
        rewards: Reward functions of answers.
        weights: Their weights; None: 1 each.
        seconds: Time limit of each.
        memory_rewards: Reward functions of memories (`reward.memory`).
        memory_weights: Their weights; None: 1 each.
        targets: {history id: targets of its memory}, for rewards that need what was withdrawn.
    """

    def __init__(
        self,
        rewards: Sequence[Callable[..., Any]],
        weights: Sequence[float] | None = None,
        seconds: float = 600.0,
        memory_rewards: Sequence[Callable[..., Any]] = (),
        memory_weights: Sequence[float] | None = None,
        targets: Mapping[str, MemoryTargets] | None = None,
    ):
        self.rewards = [Reward(function, seconds) for function in rewards]
        self.memory_rewards = [Reward(function, seconds, MEMORY_COLUMNS) for function in memory_rewards]
        self.memory_weights = list(memory_weights or [1.0] * len(self.memory_rewards))
        self.targets = targets or {}
        self._weights, self._seconds = weights, seconds
        # one for all steps: a judge keeps its connections
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def names(self) -> list[str]:
        """Names of the reward functions of answers."""
        return [function.__name__ for function in self.rewards]

    @property
    def weights(self) -> list[float]:
        """Weights of the reward functions of answers."""
        return list(self._weights or [1.0] * len(self.rewards))

    @property
    def reads_letters(self) -> bool:
        """Whether a reward of answers can take `answer`, the gold letter; otherwise letters are not
        measured."""
        return any(function.takes is None or "answer" in function.takes for function in self.rewards)

    def add(self, function: Callable[..., Any]) -> None:
        """Adds a reward function of answers."""
        self.rewards.append(Reward(function, self._seconds))

    def score(self, rollouts: Sequence[Rollout], ends: Sequence[int], **of_the_run: Any) -> None:
        """Sets scores and rewards of all answers, and the bonus of every rollout.

        Args:
            rollouts: The rollouts of this rank.
            ends: Tokens that end a completion.
            of_the_run: `trainer_state`, `log_metric` and `log_extra`, as rewards get them.

        Raises:
            TrainingError: If the run must stop.
        """
        answers = [(rollout, turn) for rollout in rollouts for turn in rollout.answers]
        examples = [
            reward.Example(
                **question_columns(turn.question),
                completion=turn.text,
                completion_ids=turn.completion,
                finished=turn.completion[-1] in ends,
                blind=rollout.blind,
            )
            for rollout, turn in answers
            if turn.question is not None
        ]
        tables = self._all(self.rewards, {**reward.columns(examples), **of_the_run})
        for (_, turn), *scores in zip(answers, *tables, strict=True):
            turn.scores = [math.nan if score is None else score for score in scores]
            turn.reward = weighted(self.weights, turn.scores)
            if self.reads_letters and turn.question is not None and not turn.question.open_ended:
                turn.reading = reward.read(turn.text, turn.question.options)
        if not self.memory_rewards:
            return
        tables = self._all(self.memory_rewards, {**self._memory_columns(rollouts), **of_the_run})
        for rollout, *scores in zip(rollouts, *tables, strict=True):
            rollout.memory_scores = [math.nan if score is None else score for score in scores]
            bonus = weighted(self.memory_weights, rollout.memory_scores)
            rollout.bonus = 0.0 if math.isnan(bonus) else bonus

    def _memory_columns(self, rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
        updates = [[turn.update for turn in rollout.updates if turn.update] for rollout in rollouts]
        targets = [self.targets.get(rollout.history.id) for rollout in rollouts]
        return {
            "completions": [rollout.memory for rollout in rollouts],
            "memories": [[update.memory for update in of_rollout] for of_rollout in updates],
            "chunks": [[chunk.text for chunk in rollout.chunks] for rollout in rollouts],
            "cut": [[update.cut for update in of_rollout] for of_rollout in updates],
            "empty": [[update.empty for update in of_rollout] for of_rollout in updates],
            "withdrawn": [list(of_history.withdrawn) if of_history else [] for of_history in targets],
            "history_id": [rollout.history.id for rollout in rollouts],
        }

    def _all(self, functions: Sequence[Reward], columns: dict[str, Any]) -> list[list[float | None]]:
        """What each function gives: first those that block, in their order, then all others together."""

        async def everyone() -> list[list[float | None]]:
            found = {f: await f(**columns) for f in functions if not f.is_async}
            waiting = [f for f in functions if f.is_async]
            found |= dict(zip(waiting, await asyncio.gather(*(f(**columns) for f in waiting)), strict=True))
            return [found[function] for function in functions]

        return self._run(everyone())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._loop = self._loop or asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def check(self, question: Question, right: str, wrong: str, tokenizer: Any, loud: bool = True) -> None:
        """Tries the rewards on a correct, a wrong and an empty answer to a question, before a model is
        loaded.

        Logs a warning (if `loud`) if they give all three the same score: then nothing can be learned.

        Raises:
            RecipeError: If one returns no numbers, or too few or too many.
        """
        tried = [right, wrong, ""]
        examples = [
            reward.Example(
                **question_columns(question),
                completion=text,
                completion_ids=tokenizer(text, add_special_tokens=False)["input_ids"],
            )
            for text in tried
        ]
        columns = {
            **reward.columns(examples),
            "trainer_state": None,
            "log_metric": lambda name, value: check_logged(name),
            "log_extra": lambda column, values: None,
        }
        given = []
        for function in self.rewards:
            try:
                scores = self._run(function.call(columns, function.seconds))
            except TrainingError as error:
                raise RecipeError(f"reward {function.__name__}: {error}") from None
            except Exception as error:  # a user's own code, which may need what exists only in a training
                logger.info("cannot check the rewards before the first step (%s)", _described(error))
                return
            try:
                given.append(function.checked(columns, scores))
            except TrainingError as error:
                raise RecipeError(str(error)) from None
        if loud and given and all(len(set(scores)) == 1 for scores in given):
            logger.warning(
                "the rewards give a correct answer, a wrong one and an empty one the same score (%s): nothing"
                " can be learned from them; check `rewards`",
                ", ".join(str(scores[0]) for scores in given),
            )
