"""`rft report RUN_DIR`: a training's curves and samples as one self-contained page, from the files in its output folder.

Everything comes from `metrics.jsonl`, `provenance.json` and `completions/`; nothing is asked of W&B. Every text of the run
is escaped.
"""

import argparse
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.errors import DataError
from rft.track import METRICS, read_metrics
from rft.train.panels import PANELS

SAMPLES = 6
COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#7c3aed", "#475569", "#b91c1c", "#0e7490")
MARKERS = "oDs^vPX*"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1">
<title>{{ title }}</title><style>
:root { color-scheme: light dark; --ink: #1c1917; --soft: #57534e; --paper: #fff; --card: #f5f5f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5e4; --soft: #a8a29e; --paper: #1c1917; --card: #292524; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem; margin: 2rem
auto; padding: 0 1rem; }
figure { background: #fff; margin: 0; border-radius: .5rem; } figcaption { color: #1c1917; padding: .5rem .75rem 0;
font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } .soft { color: var(--soft); } td, th { text-align: left; padding: .15rem .8rem .15rem 0;
vertical-align: top; }
pre { background: var(--card); padding: .75rem; border-radius: .5rem; white-space: pre-wrap; overflow-wrap: anywhere;
margin: .25rem 0; }
</style><h1>{{ title }}</h1><p>{{ summary }}</p>
<table>{% for name, value in facts.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% for section, charts in sections.items() %}<h2>{{ section }}</h2><div class="panels">
{% for name, svg in charts.items() %}<figure><figcaption>{{ name }}</figcaption>{{ svg }}</figure>{% endfor %}</div>{% endfor %}
{% if samples %}<h2>Newest completions</h2><p class="soft">Step {{ samples[0].step }}; the history is left out, {{
samples|length }} of
the generation are shown, best and worst.</p>{% for row in samples %}<h3>advantage {{ "%.2f"|format(row.advantage) }}{% if
row.answer %},
gold {{ row.answer }}{% endif %}</h3><pre>{{ row.prompt }}</pre><pre>{{ row.completion }}</pre>{% endfor %}{% endif %}
{% if missing %}<p class="soft">Not logged by this run: {{ missing|join(", ") }}.</p>{% endif %}</html>
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="output folder of a training")
    parser.add_argument("--out", type=Path, help="page to write (default: RUN_DIR/training.html)")


def run(args: argparse.Namespace) -> int:
    page = args.out or args.run / "training.html"
    write_report(args.run, page)
    print(page)
    return 0


def write_report(folder: Path, page: Path) -> None:
    """The page of a training's output folder.

    Raises:
        DataError: nothing was logged there.
    """
    import jinja2
    from markupsafe import Markup

    rows = [row for row in read_metrics(folder / METRICS) if "loss" in row or "reward" in row]
    if not rows:
        raise DataError(f"{folder}: no {METRICS} with a logged step here; expected the output folder of a training")
    sections: dict[str, dict[str, Any]] = {}
    missing = []
    for section, panels in PANELS.items():
        for name, wanted in panels.items():
            if series := find(rows, wanted):
                sections.setdefault(section, {})[name] = Markup(draw(series, name))
            else:
                missing.append(name)
    provenance = folder / "provenance.json"
    facts = json.loads(provenance.read_text()) if provenance.exists() else {}
    versions = ", ".join(f"{name} {version}" for name, version in facts.pop("versions", {}).items())
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    html = template.render(
        title=f"Training: {folder.resolve().name}",
        summary=in_words(rows),
        sections=sections,
        missing=missing,
        facts={**facts, **({"versions": versions} if versions else {})},
        samples=newest_samples(folder),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")


def find(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) points of every metric that is wanted, by name."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    chosen = [key for want in wanted for key in names if key == want or (want.endswith("/") and key.startswith(want))]
    series = {key: [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))] for key in chosen}
    return {key: points for key, points in series.items() if points}


def draw(series: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """A line chart as SVG: series differ in marker as well as in colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rft", "font.size": 9, "text.parse_math": False}):
        figure, axes = pyplot.subplots(figsize=(4.6, 2.6), layout="constrained")
        for i, (name, points) in enumerate(series.items()):
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps,
                values,
                color=COLOURS[i % len(COLOURS)],
                label=name.rpartition("/")[2],
                linewidth=1.3,
                markersize=3.5,
                marker=MARKERS[i % len(MARKERS)],
                markevery=max(1, len(points) // 8),
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
        axes.set_xlabel("step")
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Title": title, "Date": None, "Creator": None})
        pyplot.close(figure)
    svg = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S).replace("<svg", '<svg role="img"', 1)


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the run came to, in a sentence or two."""
    first, last = rows[0], rows[-1]
    key = "reward" if "reward" in last else "loss"
    said = f"{last['step']} steps; {key} {first[key]:.3f} at step {first['step']}, {last[key]:.3f} at step {last['step']}."
    if unparsed := find(rows, ["unparsed_rate"]).get("unparsed_rate"):
        said += f" {unparsed[-1][1]:.0%} of the newest answers cannot be read."
    if seconds := find(rows, ["step_time"]).get("step_time"):
        said += f" A step took {sorted(s for _, s in seconds)[len(seconds) // 2]:.1f} s (median)."
    return said


def newest_samples(folder: Path) -> list[dict[str, Any]]:
    """The best and the worst completions of the newest generation on disk."""
    files = sorted((folder / "completions").glob("completions_*.parquet"))
    if not files:
        return []
    import pandas as pd

    table = pd.read_parquet(files[-1]).sort_values("advantage", ascending=False)
    rows = pd.concat([table.head(SAMPLES // 2), table.tail(SAMPLES // 2)]).drop_duplicates(subset=["completion", "prompt"])
    return [
        {"answer": None, **row, "prompt": _text(row["prompt"]), "completion": _text(row["completion"])}
        for row in rows.to_dict("records")
    ]


def _text(said: Any) -> str:
    return said if isinstance(said, str) else "\n".join(str(message.get("content", "")) for message in said)
