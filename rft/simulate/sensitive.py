"""Synthetic personal items that cannot belong to a real person: each is drawn from a reserved or never issued
range.

Ranges: example.com (RFC 2606), telephone numbers 555-0100 to 555-0199, social security area 000, card numbers
with the unassigned industry digit 0, IBANs of the unassigned country XX, documents marked SPECIMEN.
"""

from collections.abc import Callable
from random import Random


def _digits(rng: Random, count: int) -> str:
    return "".join(str(rng.randint(0, 9)) for _ in range(count))


MAKERS: dict[str, Callable[[Random], str]] = {
    "phone number": lambda r: f"({r.randint(201, 989)}) 555-01{_digits(r, 2)}",
    "email address": lambda r: (
        f"{r.choice('abcdefghjklm')}{r.choice('nopqrstuvw')}.{_digits(r, 3)}@example.com"
    ),
    "postal address": lambda r: (
        f"{r.randint(1, 400)} Example Street, Flat {r.randint(1, 60)}, Sampletown 00{_digits(r, 3)}"
    ),
    "social security number": lambda r: f"000-{_digits(r, 2)}-{_digits(r, 4)}",
    "passport number": lambda r: f"SPECIMEN-P{_digits(r, 5)}",
    "driver's licence number": lambda r: f"SPECIMEN-D{_digits(r, 5)}",
    "identity card number": lambda r: f"SPECIMEN-R{_digits(r, 5)}",
    "bank account": lambda r: f"XX00 TEST 0000 {_digits(r, 4)} {_digits(r, 4)}",
    "credit card number": lambda r: f"0000 0000 {_digits(r, 4)} {_digits(r, 4)}",
    "number plate": lambda r: f"TEST-{_digits(r, 4)}",
    "file path": lambda r: f"/home/example/user{_digits(r, 3)}/letters/draft{_digits(r, 2)}.txt",
    "API key": lambda r: f"sk-EXAMPLE-{_digits(r, 8)}",
}


def draw_items(rng: Random, count: int) -> list[tuple[str, str, str]]:
    """Draws `count` different items as (name, a value, another value)."""
    drawn = []
    for name in rng.sample(list(MAKERS), count):
        value = other = MAKERS[name](rng)
        while other == value:
            other = MAKERS[name](rng)
        drawn.append((name, value, other))
    return drawn
