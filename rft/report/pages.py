"""A page for people: how it is put together, how its numbers are written, and how it is saved.

Invariant: a page loads nothing, runs no script but the question browser's own (its policy names that one's hash), and is
written whole or not at all; everything that comes from data is escaped. A number and its unit stay on one line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rft.data.question import LETTERS
from rft.files import write_whole
from rft.report import browser, charts

LONGEST_COMPLETION = 4000  # characters shown of a completion
NBSP = "\N{NO-BREAK SPACE}"
INTERVAL = f"95{NBSP}% interval"
CARD_WIDTH = 500  # CSS pixels of a card in one of two columns, within its padding
CHARACTERS, LINE = 55, 25  # about how many characters stand in a line of a card, and how high it is

Card = tuple[str, str, str]
"""A number at the top of a page: its name, the number as it is written, and a note ("" for none)."""


def write_page(path: Path | str, template: str, found: Sequence[Mapping[str, Any]] = (), **values: Any) -> None:
    """A page from one of the templates.

    Args:
        path: the file to write.
        template: its name in `rft/evaluate/templates`.
        found: the entries of the question browser; without any, the page has no script.
        values: what the template asks for.

    Raises:
        DataError: the page cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("rft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "count": count, "percent": percent,
        "span": span,
        "points": points,
        "duration": duration,
        "readable": charts.readable,
        "shown": shown,
        "columns": columns,
    }
    script, policy = browser.script() if found else ("", "")
    page = pages.get_template(template).render(
        letters=LETTERS, questions=browser.data(found) if found else "", script=script, script_policy=policy, **values
    )
    write_whole(Path(path), page)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}{NBSP}%"


def span(interval: Sequence[float] | None) -> str:
    """A 95 % interval of a share."""
    return "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{NBSP}%"


def points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def count(value: float | None) -> str:
    return "not given" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{NBSP}h {minutes}{NBSP}min"
    return f"{minutes}{NBSP}min {rest}{NBSP}s" if minutes else f"{seconds:.1f}{NBSP}s"


def shown(completion: str) -> Iterator[tuple[str, str]]:
    """(css class, text) of a completion's thought and answer, shortened where it is very long."""
    cut = len(completion) - LONGEST_COMPLETION
    text = completion[:LONGEST_COMPLETION]
    thought, tag, answer = text.rpartition("</think>")
    if tag:
        yield "thought", thought + tag
    yield "said", answer if tag else text
    if cut > 0:
        yield "note", f"… and {cut:,} characters more"
    if not completion.strip():
        yield "note", "(an empty completion)"


def columns(figures: str) -> Markup:
    """The figures of a page in two columns of about the same height: the highest first, each into the shorter column; within
    a column in the order given. figures: HTML, one `<figure class="card">` after the other."""
    cards = [card for card in re.split(r'(?=<figure class="card)', figures) if card.strip()]
    heights = [_height(card) for card in cards]
    chosen: list[list[int]] = [[], []]
    for i in sorted(range(len(cards)), key=lambda i: -heights[i]):
        min(chosen, key=lambda column: sum(heights[j] for j in column)).append(i)
    parts = ["".join(cards[i] for i in column) for column in sorted(map(sorted, chosen)) if column]
    inner = "".join(f'<div class="column">\n{part}</div>\n' for part in parts)
    return Markup(f'<div class="charts">\n{inner}</div>\n')


def _height(card: str) -> float:
    """About how high a card is, in CSS pixels, by what it shows while its details are closed."""
    open_part = re.sub(r"<details.*?</details>", "", card, flags=re.S)
    pictures = re.findall(r'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', open_part)
    high = sum(CARD_WIDTH * float(height) / float(width) for width, height in pictures)
    items = re.findall("<li>(.*?)</li>", re.sub("<svg.*?</svg>", "", open_part, flags=re.S), flags=re.S)
    return 100 + high + 36 * len(re.findall("<tr", open_part)) + sum(12 + LINE * (len(item) // CHARACTERS) for item in items)
