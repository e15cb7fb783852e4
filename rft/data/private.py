"""Finds personal items in a text that could belong to a real person.

The items are telephone numbers, e-mail addresses, social security, card and account numbers, and API keys.

Items in ranges reserved for examples belong to nobody and are not reported: example.com, 555-0100 to
555-0199, social security areas 000, 666 and 900 and above, cards with industry digit 0, IBANs of country XX,
keys that contain EXAMPLE.
"""

import re

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w.-])(?:\+?1[ .-])?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])")
SOCIAL = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
CARD = re.compile(r"(?<![\w-])(?:\d{4}[ -]){3}\d{4}(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){3,}")
KEY = re.compile(r"\bsk-[\w-]{12,}")
# every telephone, account or card number contains a match of this
NUMBERS = re.compile(r"\d{2}[ .-]\d{4}|\d{2} [A-Z0-9]{4}")
RESERVED_DOMAIN = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid))$", re.IGNORECASE
)


def plausible_items(text: str) -> list[str]:
    """Returns the personal items of a text outside the reserved ranges, ordered by kind."""
    items: list[str] = []
    if "@" in text:
        items += [item for item in EMAIL.findall(text) if not RESERVED_DOMAIN.search(item)]
    if NUMBERS.search(text):
        items += _numbers(text)
    if "sk-" in text:
        items += [item for item in KEY.findall(text) if "EXAMPLE" not in item]
    return items


def _numbers(text: str) -> list[str]:
    items = [item for item in PHONE.findall(text) if not re.search(r"555\D01\d\d$", item)]
    items += [item for item in SOCIAL.findall(text) if item[:3] not in ("000", "666") and item[0] != "9"]
    items += [item for item in CARD.findall(text) if item[0] != "0" and _luhn(item)]
    items += [item for item in IBAN.findall(text) if not item.startswith("XX")]
    return items


def _luhn(card: str) -> bool:
    digits = [int(d) for d in card if d.isdigit()]
    return (
        sum(d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))) % 10
        == 0
    )
