"""Filler conversations unrelated to the persona: mathematics, code and general knowledge."""

from collections.abc import Iterator
from random import Random

from rft.simulate.grammar import draw_slot, fill, load
from rft.simulate.persona_record import Message, chat


def fillers(rng: Random) -> Iterator[list[Message]]:
    """Yields filler conversations without end; every three are one of each kind, in random order."""
    while True:
        for write in rng.sample((_mathematics, _code, _knowledge), 3):
            yield write(rng)


def _knowledge(rng: Random) -> list[Message]:
    entry = rng.choice(load("filler")["knowledge"])
    about = rng.choice(entry["about"])
    slots = {"a": about, "A": about[0].upper() + about[1:]}
    return chat(fill(rng, entry["ask"], slots), fill(rng, entry["answer"], slots))


def _code(rng: Random) -> list[Message]:
    words, entry = load("filler"), rng.choice(load("filler")["bugs"])
    x, y = rng.randint(2, 400), rng.randint(401, 999)
    slots = {
        "f": rng.choice(words["names"]),
        "v": rng.choice(words["nouns"]),
        "x": str(x),
        "y": str(y),
        "sum": str(x + y),
        "n": str(rng.randint(20, 2000)),
    }
    ask = f"{entry['symptom']} What is wrong?\n\n```python\n{entry['code']}\n```"
    return chat(fill(rng, ask, slots), fill(rng, entry["fix"], slots))


def _mathematics(rng: Random) -> list[Message]:
    return rng.choice((_shares, _rates, _discount, _rectangle, _sequence))(rng)


def _shares(rng: Random) -> list[Message]:
    people, per_bag, left = rng.randint(3, 19), rng.randint(4, 60), rng.randint(1, 2)
    thing, place = draw_slot(rng, "thing"), draw_slot(rng, "city")
    total = people * per_bag + left
    return chat(
        f"A shop in {place} packs {total} screws for a {thing} into {people} equal bags. How many are in"
        " each, and how many are left?",
        f"Divide and keep the remainder.\n\n{total} = {people} x {per_bag} + {left}\n\nSo each bag holds"
        f" {per_bag} screws and {left} {'is' if left == 1 else 'are'} left over. Check: {people} x {per_bag}"
        f" = {people * per_bag}, and {people * per_bag} + {left} = {total}.",
    )


def _rates(rng: Random) -> list[Message]:
    speed, hours, pause = rng.randint(30, 120), rng.randint(2, 9), rng.randint(5, 55)
    first, second = rng.sample(load("people")["cities"], 2)
    return chat(
        f"A bus goes from {first} to {second} at {speed} km/h for {hours} hours and stops for {pause}"
        " minutes. How far is it, and what is the average speed with the stop?",
        f"The distance is speed times driving time: {speed} x {hours} = {speed * hours} km.\n\nWith the stop"
        f" the journey takes {hours * 60} + {pause} = {hours * 60 + pause} minutes, so the average is"
        f" {speed * hours} / ({hours * 60 + pause} / 60), which is about"
        f" {speed * hours * 60 / (hours * 60 + pause):.1f} km/h. The stop counts as time, not as distance.",
    )


def _discount(rng: Random) -> list[Message]:
    price = rng.randint(12, 480) * 5
    percent, tax = rng.choice((10, 15, 20, 25, 30, 40)), rng.choice((5, 7, 19, 20))
    thing = draw_slot(rng, "thing")
    less = price * (100 - percent) / 100
    return chat(
        f"A {thing} costs {price}. It is reduced by {percent} percent, then {tax} percent tax is added. Is"
        " that the same as the other way round?",
        f"Yes, because both steps are multiplications.\n\nReduced first: {price} x"
        f" {(100 - percent) / 100:.2f} = {less:.2f}, then {less:.2f} x {(100 + tax) / 100:.2f} ="
        f" {less * (100 + tax) / 100:.2f}.\nTaxed first: {price} x {(100 + tax) / 100:.2f} ="
        f" {price * (100 + tax) / 100:.2f}, then x {(100 - percent) / 100:.2f} gives"
        f" {less * (100 + tax) / 100:.2f} again.",
    )


def _rectangle(rng: Random) -> list[Message]:
    width, extra = rng.randint(3, 60), rng.randint(1, 30)
    length = width + extra
    return chat(
        f"A field is {extra} m longer than wide and has a perimeter of {2 * (width + length)} m. What is its"
        " area?",
        f"Let w be the width, so the length is w + {extra}.\n\n2(w + w + {extra}) ="
        f" {2 * (width + length)}\n4w = {4 * width}\nw = {width}\n\nThe length is {length} m and the area"
        f" {width} x {length} = {width * length} square metres.",
    )


def _sequence(rng: Random) -> list[Message]:
    start, step, count = rng.randint(1, 90), rng.randint(2, 40), rng.randint(8, 60)
    shown = ", ".join(str(start + i * step) for i in range(4))
    last = start + (count - 1) * step
    return chat(
        f"What is the sum of the first {count} terms of {shown}, ...?",
        f"The terms grow by {step}, so this is an arithmetic sequence. Its term number {count} is {start} +"
        f" {count - 1} x {step} = {last}.\n\nPair the first with the last: the sum is {count} x ({start} +"
        f" {last}) / 2 = {count * (start + last) // 2}.",
    )
