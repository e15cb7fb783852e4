"""A metric: its name, what it means, how it is computed, and where it is shown.

Invariant: a name belongs to one entry. A part of a name in capitals, such as KIND, stands for any value: the
entry is a family; a name that has an entry of its own does not belong to the family.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft.metrics.step import Step, deviation, mean

REDUCTIONS: dict[str, Callable[[Any], float]] = {"mean": mean, "min": min, "max": max, "deviation": deviation}
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")
LOG, SUMMARY, BOTH = "metrics.jsonl", "summary.json", "both"  # files
SHARE = "share"
NUMBER = "number"
TOKENS = "tokens"
SECONDS = "seconds"
NATS = "nats"


@dataclass(frozen=True)
class Metric:
    """A metric or, with a placeholder in its name, a family of metrics.

    Attributes:
        name: As in `metrics.jsonl` or `summary.json`.
        meaning: One sentence.
        unit: "share" is a number between 0 and 1, shown in percent.
        of: Its values in a step, {value of the placeholder: values} for a family. None: the code that has
            the numbers records it.
        reduce: How the values of all ranks become one number: a key of `REDUCTIONS`, or a word for the docs
            if `of` is None.
        over: What there is a value of: answers, groups, questions, ...
        panel: Title of its chart in `rft.report.panels`; "": none.
        series: Its name in that chart; "": the value of the placeholder.
        card: Its name among the numbers at the top of a page; "": not among them.
        file: `LOG` if it is logged in training, `SUMMARY` if it is a figure of an evaluation, or `BOTH`.
        by_reward: Whether a reward function logs it, through `log_metric`.
    """

    name: str
    meaning: str
    unit: str = SHARE
    of: Callable[[Step], Iterable[float] | Mapping[str, Iterable[float]]] | None = None
    reduce: str = "mean"
    over: str = "answers"
    panel: str = ""
    series: str = ""
    card: str = ""
    file: str = LOG
    by_reward: bool = False

    @property
    def is_family(self) -> bool:
        """Whether the name has a placeholder."""
        return bool(_PLACEHOLDER.search(self.name))

    @property
    def pattern(self) -> str:
        """A regular expression of its names, with a group for the placeholder."""
        return _PLACEHOLDER.sub("([^/]+)", re.escape(self.name))

    @property
    def how(self) -> str:
        """How it adds up, in words."""
        return "last value" if self.reduce == "last" else f"{self.reduce} over {self.over}"

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == SHARE

    def part(self, name: str) -> str:
        """Returns what stands in a name for the placeholder; "" if there is none."""
        found = re.fullmatch(self.pattern, name)
        return found[1] if found and self.is_family else ""

    def measure(self, step: Step) -> dict[str, float]:
        """Returns {name: number} for a step; {} if it has no value there."""
        if self.of is None:
            return {}
        values = self.of(step)
        of_names = {
            _PLACEHOLDER.sub(str(key), self.name): list(of_key)
            for key, of_key in (values if isinstance(values, Mapping) else {"": values}).items()
        }
        found = {
            name: float(REDUCTIONS[self.reduce](of_name)) for name, of_name in of_names.items() if of_name
        }
        return {name: number for name, number in found.items() if not math.isnan(number)}


class Registry:
    """Metrics by name.

    Args:
        metrics: All metrics, in the order in which pages show them.

    Raises:
        ValueError: If two have one name.
    """

    def __init__(self, metrics: Sequence[Metric]):
        self.all = tuple(metrics)
        self._named: dict[str, Metric] = {}
        for metric in metrics:
            if metric.name in self._named:
                raise ValueError(
                    f"metric {metric.name} is registered twice in rft/metrics/table.py: as"
                    f" {self._named[metric.name].meaning!r} and as {metric.meaning!r}; rename one"
                )
            self._named[metric.name] = metric
        self._families = [(re.compile(metric.pattern), metric) for metric in metrics if metric.is_family]

    def of_file(self, file: str) -> list[Metric]:
        """Returns the metrics that are in a file, in order."""
        return [metric for metric in self.all if metric.file in (file, BOTH)]

    def find(self, name: str) -> Metric | None:
        """Returns the metric or family that a name belongs to; None if there is none."""
        if name in self._named:
            return self._named[name]
        return next((metric for pattern, metric in self._families if pattern.fullmatch(name)), None)

    def named(self, name: str) -> Metric:
        """Returns the metric or family that a name belongs to.

        Raises:
            ValueError: If there is none.
        """
        metric = self.find(name)
        if metric is None:
            raise ValueError(f"metric {name} is not registered: add it to rft/metrics/table.py")
        return metric

    def measure(self, step: Step) -> dict[str, float]:
        """Returns {name: number} of every metric that has a value in a step, sorted by name."""
        found: dict[str, float] = {}
        for metric in self.all:
            found |= metric.measure(step)
        return dict(sorted(found.items()))
