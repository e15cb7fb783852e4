"""Charts as inline SVG that takes its colours from the page.

Invariant: a chart is a self-contained SVG without links, scripts or fonts of its own. Its text is real text,
with every character escaped, and its colours are CSS variables of the page, so that it follows light, dark
and print. Series differ in marker and in colour. Their names are in a list above the chart, which wraps at
any width and covers nothing.
"""

import io
import itertools
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from xml.sax.saxutils import quoteattr

from markupsafe import Markup, escape

from rft.records.comparison import Difference
from rft.records.summary import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.5  # inches of 72 SVG points: about the width of a phone
MARKERS = {  # matplotlib's marker: its outline for the list of series, 8 units wide, centred at 0
    "o": "M-3.4,0a3.4,3.4 0 1 0 6.8,0a3.4,3.4 0 1 0-6.8,0z",
    "D": "M0,-4L4,0L0,4L-4,0z",
    "s": "M-3.2,-3.2h6.4v6.4h-6.4z",
    "^": "M0,-3.6L3.6,3.4h-7.2z",
    "v": "M0,3.6L3.6,-3.4h-7.2z",
    "P": "M-1.3,-3.7h2.6v2.4h2.4v2.6h-2.4v2.4h-2.6v-2.4h-2.4v-2.6h2.4z",
    "X": (
        "M-3.6,-1.8L-1.8,-3.6L0,-1.8L1.8,-3.6L3.6,-1.8L1.8,0L3.6,1.8L1.8,3.6L0,1.8L-1.8,3.6L-3.6,1.8L-1.8,0z"
    ),
}
COLOURS = 5  # the page defines --series-1 to --series-5; with 7 markers they distinguish 35 series
LABEL = 20  # characters per line of a label
LINE = 0.17  # height of a line of a label, in inches

# Placeholder colours that matplotlib can parse. The finished SVG has the page's variables instead.
_STAND_INS = {"ink": "#010203", "muted": "#010204", "grid": "#010205", "paper": "#010206"} | {
    f"series-{i}": f"#01030{i}" for i in range(1, COLOURS + 1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rft",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _STAND_INS["ink"],
    "axes.edgecolor": _STAND_INS["grid"],
    "axes.labelcolor": _STAND_INS["muted"],
    "xtick.color": _STAND_INS["muted"],
    "ytick.color": _STAND_INS["ink"],
    "grid.color": _STAND_INS["grid"],
    "grid.linewidth": 0.6,
}
# ids that nothing refers to
_NOT_OURS = re.compile(r'<metadata>.*?</metadata>|<style.*?</style>| id="[\w.]+_\d+"', re.S)


TICK_ROOM = 0.1  # labels of ticks that are nearer would overlap


class Mark(NamedTuple):
    """A value with its interval, over n questions."""

    value: float
    interval: Sequence[float]
    n: int


def intervals(
    series: Mapping[str, Mapping[str, Measure]], title: str, *, chance: float | None = None
) -> Markup:
    """Draws accuracies with 95 % intervals: one row per value, with one mark per series.

    Args:
        series: {name of the series: {value: its accuracy}}. The values of all series are shown, in order of
            first appearance; those that are not scored are left out.
        title: the text for screen readers.
        chance: draw this accuracy, that of guessing.
    """
    with _style():
        marks = {
            name: {
                value: Mark(cell.accuracy, cell.ci95, cell.n)
                for value, cell in table.items()
                if cell.accuracy is not None and cell.ci95 is not None
            }
            for name, table in series.items()
        }
        figure, axes = _draw(marks)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks(*_percents(chance, "{}\nguessing"))
        if chance:
            axes.axvline(chance, **_reference())
        return _key(series) + _svg(figure, title)


def differences(series: Mapping[str, Mapping[str, Difference]], title: str) -> Markup:
    """Draws differences in points with 95 % intervals, in the same form as `intervals`.

    Args:
        series: {name of the series: {value: its difference}}.
        title: the text for screen readers.
    """
    with _style():
        marks = {
            name: {value: Mark(cell.difference, cell.ci95, cell.n) for value, cell in table.items()}
            for name, table in series.items()
        }
        figure, axes = _draw(marks)
        edges = [edge for table in series.values() for cell in table.values() for edge in cell.ci95]
        reach = max(0.1, *map(abs, edges)) if edges else 0.1
        axes.set_xlim(-1.05 * reach, 1.05 * reach)
        step = next(step for step in (0.05, 0.1, 0.25, 0.5, 1) if reach / step <= 2.5 or step == 1)
        ticks = [i * step for i in range(-int(reach / step), int(reach / step) + 1)]
        axes.set_xticks(ticks, [f"{100 * tick:+.0f}" if tick else "0\nno difference" for tick in ticks])
        axes.axvline(0, **_reference())
        return _key(series) + _svg(figure, title)


def _draw(series: Mapping[str, Mapping[str, Mark]]) -> "tuple[Figure, Axes]":
    """Draws one row per value with its marks and intervals. A row is as high as its marks and its label
    need."""
    sizes = {value: mark.n for table in series.values() for value, mark in table.items()}
    labels = {value: _wrapped(f"{readable(value)} ({size:,})") for value, size in sizes.items()}
    heights = [
        max(0.22 + 0.15 * len(series), 0.1 + LINE * (label.count("\n") + 1)) for label in labels.values()
    ]
    bottoms = list(itertools.accumulate(heights))
    centres = {
        value: bottom - height / 2 for value, bottom, height in zip(labels, bottoms, heights, strict=True)
    }
    figure, axes = _axes(0.55 + sum(heights), grid="x")
    for i, (name, table) in enumerate(series.items()):
        offset = 0.15 * (i - (len(series) - 1) / 2)
        rows = [(centres[value] + offset, mark) for value, mark in table.items()]
        for y, mark in rows:
            axes.plot(
                mark.interval, [y, y], color=_series(i), linewidth=2, solid_capstyle="round", alpha=0.55
            )
        axes.plot(
            [mark.value for _, mark in rows],
            [y for y, _ in rows],
            linestyle="none",
            marker=_marker(i),
            markersize=6,
            color=_series(i),
            markeredgecolor=_STAND_INS["paper"],
            markeredgewidth=0.8,
            label=name,
        )
    if len(series) > 1:  # a line between values, to group the marks of each
        for bottom in bottoms[:-1]:
            axes.axhline(bottom, color=_STAND_INS["grid"], linewidth=0.6, zorder=1)
    axes.set_yticks(list(centres.values()), list(labels.values()))
    axes.set_ylim(sum(heights), 0)
    return figure, axes


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    *,
    share: bool = False,
    chance: float | None = None,
) -> Markup:
    """Draws quantities over training steps: every point, or a moving average if there are many.

    Args:
        series: {name: [(step, value), ...]} with at least one point each. If there are at most two series,
            the single steps are drawn too, as thin lines behind the averages.
        title: the text for screen readers.
        share: the quantities are between 0 and 1, and are shown in percent.
        chance: draw this accuracy, that of guessing.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with _style():
        figure, axes = _axes(2.5, grid="y")
        for i, (name, points) in enumerate(series.items()):
            steps, values = [x for x, _ in points], [y for _, y in points]
            window = smoothing(len(points))
            if window and len(series) <= 2:
                axes.plot(steps, values, color=_series(i), linewidth=0.8, alpha=0.35)
            marked = not window or len(series) > 1
            axes.plot(
                steps,
                _moving_average(values, window),
                color=_series(i),
                linewidth=2 if window else 1.3,
                marker=_marker(i) if marked else "",
                markersize=4.5,
                markeredgecolor=_STAND_INS["paper"],
                markeredgewidth=0.6,
                markevery=max(1, len(points) // 8),
                label=name,
            )
        if share:
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks(*_percents(chance, "guessing\n{}"))
        else:
            low, high = axes.get_ylim()
            lowest = min(y for points in series.values() for _, y in points)
            if 0 <= lowest < (low + high) / 4:
                axes.set_ylim(bottom=0, top=high if high > 0 and lowest < high else 1)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        if chance:
            axes.axhline(chance, **_reference())
        all_steps = [x for points in series.values() for x, _ in points]
        if min(all_steps) == max(all_steps):  # otherwise the axis would be a fraction of a step wide
            axes.set_xlim(all_steps[0] - 1, all_steps[0] + 1)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.set_xlabel("step")
        return _key(series) + _svg(figure, title)


def smoothing(count: int) -> int:
    """Returns how many steps on each side a moving average over `count` points includes; 0: no average."""
    return 0 if count < 30 else count // 15


def number(value: float) -> str:
    """Formats a quantity with three significant digits, or as a whole number from 1,000 up."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def readable(value: str) -> str:
    """Formats a label as words: underscores become spaces, and true and false become yes and no."""
    if value in ("true", "false"):
        return "yes" if value == "true" else "no"
    return value.replace("_", " ").strip() or "(not given)"


def _moving_average(values: Sequence[float], window: int) -> list[float]:
    """Returns the centred moving average. Its window is shorter at both ends."""
    return [
        sum(near) / len(near)
        for near in (values[max(0, i - window) : i + window + 1] for i in range(len(values)))
    ]


def _style() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _axes(height: float, grid: Literal["x", "y"]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid)
    axes.tick_params(length=0)
    return figure, axes


def _series(i: int) -> str:
    return _STAND_INS[f"series-{i % COLOURS + 1}"]


def _marker(i: int) -> str:
    return list(MARKERS)[i % len(MARKERS)]


def _key(names: Collection[str]) -> Markup:
    """Returns the list of series above a chart, with marker and name of each. A single series needs no
    list."""
    if len(names) < 2:
        return Markup("")
    return Markup('<ul class="key">{}</ul>').format(
        Markup("").join(
            Markup(
                '<li><svg viewBox="-4 -4 8 8" aria-hidden="true"><path d="{}"'
                ' fill="var(--series-{})"/></svg>{}</li>'
            ).format(MARKERS[_marker(i)], i % COLOURS + 1, escape(name))
            for i, name in enumerate(names)
        )
    )


def _percents(chance: float | None, at_chance: str) -> tuple[list[float], list[str]]:
    """Returns the ticks 0, 25, 50, 75 and 100 % with their labels, and `chance`, in place of a tick near
    it."""
    ticks = {share: "{}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    if chance:
        ticks = {share: label for share, label in ticks.items() if abs(share - chance) > TICK_ROOM}
        ticks[chance] = at_chance
    places = sorted(ticks)
    return places, [ticks[place].format(f"{100 * place:.0f}\N{NO-BREAK SPACE}%") for place in places]


def _reference() -> dict[str, Any]:
    """Returns the style of a reference line."""
    return {"color": _STAND_INS["muted"], "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LABEL)) or text


def _svg(figure: "Figure", title: str) -> Markup:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + body
    svg = _NOT_OURS.sub("", svg).replace("'DejaVu Sans'", "system-ui, sans-serif")
    for name, colour in _STAND_INS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg.replace("<svg", f"<svg role='img' aria-label={quoteattr(title)}", 1))
