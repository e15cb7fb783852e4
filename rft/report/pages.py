"""HTML report pages: rendering, number formats and saving.

Invariant: a page loads nothing and runs no script except the question browser's (its policy contains the hash
of that script). It is written atomically. Everything that comes from data is escaped. A number and its unit
stay on one line.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from rft.files import write_whole
from rft.report import browser, charts

LONGEST_COMPLETION = 4000  # maximum number of characters shown per completion
NBSP = "\N{NO-BREAK SPACE}"
INTERVAL = f"95{NBSP}% interval"
CARD_WIDTH = 500  # inner width of a card in one of two columns, in CSS pixels
CHARACTERS, LINE = 55, 25  # approximate characters per line of a card, and height of a line in CSS pixels

Card = tuple[str, str, str]
"""A number at the top of a page: its name, the formatted number, and a note ("" for none)."""


def write_page(
    path: Path | str, template: str, entries: Sequence[browser.Entry] = (), **values: object
) -> None:
    """Writes a page from one of the templates.

    Args:
        path: the file to write.
        template: its file name in `rft/report/templates`.
        entries: the entries of the question browser. If empty, the page has no script.
        values: the variables of the template.

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
        "count": count,
        "percent": percent,
        "span": span,
        "points": points,
        "duration": duration,
        "readable": charts.readable,
        "shown": shown,
        "columns": columns,
        "labels": browser.shown_labels,
    }
    script, policy = browser.script() if entries else ("", "")
    page = pages.get_template(template).render(
        questions=browser.data(entries) if entries else "", script=script, script_policy=policy, **values
    )
    write_whole(Path(path), page)


def percent(share: float | None) -> str:
    """Formats a share between 0 and 1 in percent."""
    return "–" if share is None else f"{100 * share:.1f}{NBSP}%"


def span(interval: Sequence[float] | None) -> str:
    """Formats a 95 % interval of a share in percent."""
    return "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{NBSP}%"


def points(difference: float) -> str:
    """Formats a difference of shares in percentage points."""
    return f"{100 * difference:+.1f}"


def count(value: float | None) -> str:
    """Formats a count with thousands separators."""
    return "not given" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Formats a duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{NBSP}h {minutes}{NBSP}min"
    return f"{minutes}{NBSP}min {rest}{NBSP}s" if minutes else f"{seconds:.1f}{NBSP}s"


def shown(completion: str) -> Iterator[tuple[str, str]]:
    """Yields (CSS class, text) for the thought and the answer of a completion, which is cut if it is very
    long."""
    cut = len(completion) - LONGEST_COMPLETION
    text = completion[:LONGEST_COMPLETION]
    thought, tag, answer = text.rpartition("</think>")
    if tag:
        yield "thought", thought + tag
    yield "said", answer if tag else text
    if cut > 0:
        yield "note", f"… and {cut:,} more characters"
    if not completion.strip():
        yield "note", "(an empty completion)"


def columns(figures: str) -> Markup:
    """Arranges the figures of a page in two columns of about the same height.

    The highest figures are placed first, each in the shorter column. Within a column they keep the given
    order.

    Args:
        figures: HTML, a sequence of `<figure class="card">` elements.
    """
    cards = [card for card in re.split(r'(?=<figure class="card)', figures) if card.strip()]
    heights = [_height(card) for card in cards]
    chosen: list[list[int]] = [[], []]
    for i in sorted(range(len(cards)), key=lambda i: -heights[i]):
        min(chosen, key=lambda column: sum(heights[j] for j in column)).append(i)
    parts = ["".join(cards[i] for i in column) for column in sorted(map(sorted, chosen)) if column]
    inner = "".join(f'<div class="column">\n{part}</div>\n' for part in parts)
    return Markup(f'<div class="charts">\n{inner}</div>\n')


def _height(card: str) -> float:
    """Estimates the height of a card in CSS pixels while its details are closed."""
    open_part = re.sub(r"<details.*?</details>", "", card, flags=re.S)
    pictures = re.findall(r'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', open_part)
    high = sum(CARD_WIDTH * float(height) / float(width) for width, height in pictures)
    items = re.findall("<li>(.*?)</li>", re.sub("<svg.*?</svg>", "", open_part, flags=re.S), flags=re.S)
    return (
        100
        + high
        + 36 * len(re.findall("<tr", open_part))
        + sum(12 + LINE * (len(item) // CHARACTERS) for item in items)
    )
