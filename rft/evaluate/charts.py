"""Charts as inline SVG that takes its colours from the page.

Invariant: a chart is a self-contained SVG without links, scripts or fonts of its own; its text is text, every
character of it escaped, and its colours are CSS variables of the page, so that it follows light, dark and
print. Series differ in marker as well as in colour.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = 0.25
WIDTH = 4.5  # inches of 72 SVG points each: about a phone's width
MARKERS = ("o", "D", "s", "^", "v", "P", "X")  # not as many as colours: together they tell 35 series apart
COLOURS = 5  # the page defines --series-1 to --series-5

# Stand-ins that matplotlib can parse, replaced by the page's variables in the finished SVG.
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
_NOT_OURS = re.compile(r'<metadata>.*?</metadata>|<style.*?</style>| id="[\w.]+_\d+"', re.S)  # ids nothing refers to


def intervals(series: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str, *, chance: bool = True) -> Markup:
    """Accuracy with 95 % intervals: a row for each value, a mark in it for each series.

    series: {series name: {value: {accuracy, ci95, n}}}; the values of all series are shown, in the order in
    which they first come up. title: what a screen reader says. chance: draw what guessing a letter gives.
    """
    with _style():
        figure, axes = _marks(series, "accuracy")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %\nguessing" if chance else "25 %", "50 %", "75 %", "100 %"])
        if chance:
            axes.axvline(CHANCE, color=_STAND_INS["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        return _svg(figure, title)


def differences(series: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> Markup:
    """Differences in points with 95 % intervals, as `intervals`: {series name: {value: {difference, ci95, n}}}."""
    with _style():
        figure, axes = _marks(series, "difference")
        edges = [edge for table in series.values() for cell in table.values() for edge in cell["ci95"]]
        reach = max(0.1, *map(abs, edges)) if edges else 0.1
        axes.set_xlim(-1.05 * reach, 1.05 * reach)
        step = next(step for step in (0.05, 0.1, 0.25, 0.5, 1) if reach / step <= 2.5 or step == 1)
        ticks = [i * step for i in range(-int(reach / step), int(reach / step) + 1)]
        axes.set_xticks(ticks, [f"{100 * tick:+.0f}" if tick else "0\nno difference" for tick in ticks])
        axes.axvline(0, color=_STAND_INS["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        return _svg(figure, title)


def _marks(series: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str) -> "tuple[Figure, Axes]":
    """A row for each value with its marks and intervals."""
    values = list(dict.fromkeys(value for table in series.values() for value in table))
    figure, axes = _axes(0.8 + len(values) * (0.22 + 0.15 * len(series)) + (0.3 if len(series) > 1 else 0))
    for i, (name, table) in enumerate(series.items()):
        offset = (i - (len(series) - 1) / 2) * 0.8 / len(series)
        rows = [(values.index(value) + offset, cell) for value, cell in table.items()]
        for y, cell in rows:
            axes.plot(cell["ci95"], [y, y], color=_series(i), linewidth=2, solid_capstyle="round", alpha=0.55)
        axes.plot(
            [cell[key] for _, cell in rows],
            [y for y, _ in rows],
            linestyle="none",
            marker=MARKERS[i % len(MARKERS)],
            markersize=6,
            color=_series(i),
            markeredgecolor=_STAND_INS["paper"],
            markeredgewidth=0.8,
            label=name,
        )
    sizes = {value: cell["n"] for table in series.values() for value, cell in table.items()}
    axes.set_yticks(range(len(values)), [_wrapped(f"{readable(v)} ({sizes[v]:,})") for v in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    if len(series) > 1:
        figure.legend(loc="outside upper center", ncols=(len(series) + 1) // 2, frameon=False, handletextpad=0.1)
    return figure, axes


def curve(points: Sequence[tuple[float, float]], label: str, *, share: bool = False) -> Markup:
    """A quantity over training steps: each point, and where there are many a moving average through them.

    share: the quantity lies between 0 and 1, and chance is drawn.
    """
    steps, values = [x for x, _ in points], [y for _, y in points]
    with _style():
        figure, axes = _axes(2.7)
        window = max(1, len(points) // 15)
        axes.plot(steps, values, color=_series(0), linewidth=1, alpha=0.35 if window > 1 else 1)
        if window > 1:
            axes.plot(steps, _moving_average(values, window), color=_series(0), linewidth=2.2)
        elif len(points) < 15:
            axes.plot(steps, values, color=_series(0), marker="o", markersize=4, linestyle="none")
        if share:
            axes.set_ylim(-0.02, 1.02)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
            axes.axhline(CHANCE, color=_STAND_INS["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            axes.text(1, CHANCE, "guessing", transform=axes.get_yaxis_transform(), ha="right", va="bottom", size=8)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        return _svg(figure, label)


def readable(value: str) -> str:
    """A label as words: underscores are spaces, flags yes or no."""
    if value in ("true", "false"):
        return "yes" if value == "true" else "no"
    return value.replace("_", " ").strip() or "(not given)"


def _moving_average(values: Sequence[float], window: int) -> list[float]:
    """Centred; shorter at both ends."""
    return [sum(near) / len(near) for near in (values[max(0, i - window) : i + window + 1] for i in range(len(values)))]


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _axes(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _series(i: int) -> str:
    return _STAND_INS[f"series-{i % COLOURS + 1}"]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 20)) or text


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
