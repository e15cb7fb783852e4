"""Finds personal items in a text that could belong to a real person.

The items are telephone numbers, e-mail addresses, social security, card and account numbers, and API keys.

Items in ranges reserved for examples belong to nobody and are not reported: example.com, 555-0100 to
555-0199, social security areas 000, 666 and 900 and above, cards with industry digit 0, IBANs of country XX,
keys that contain EXAMPLE.
"""

import re
from collections import Counter
from collections.abc import Callable

# a match starts at the start of a run of such characters; without this, a run of n takes n * n steps
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
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
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (EMAIL, lambda item: not RESERVED_DOMAIN.search(item)),
    "phone": (PHONE, lambda item: not re.search(r"555\D01\d\d$", item)),
    "social security": (SOCIAL, lambda item: item[:3] not in ("000", "666") and item[0] != "9"),
    "account": (IBAN, lambda item: not item.startswith("XX")),
    "card": (CARD, lambda item: item[0] != "0" and _luhn(item)),
    "key": (KEY, lambda item: "EXAMPLE" not in item),
}
"""For each kind: its pattern, and whether a match could belong to a real person."""


def plausible_items(text: str) -> list[str]:
    """Returns the personal items of a text outside the reserved ranges, ordered by kind."""
    return [item for kind in _possible(text) for item in KINDS[kind][0].findall(text) if KINDS[kind][1](item)]


def replaced(text: str) -> tuple[str, Counter[str]]:
    """Returns the text with its personal items replaced by their kind, such as "[email]", and the number of
    items of each kind."""
    found: Counter[str] = Counter()
    for kind in _possible(text):
        pattern, plausible = KINDS[kind]

        def placeholder(match: re.Match[str], kind=kind, plausible=plausible) -> str:
            if not plausible(match[0]):
                return match[0]
            found[kind] += 1
            return f"[{kind}]"

        text = pattern.sub(placeholder, text)
    return text, found


def _possible(text: str) -> list[str]:
    """The kinds that a text can contain, found by a quick look."""
    kinds = ["email"] if "@" in text else []
    if NUMBERS.search(text):
        kinds += ["phone", "social security", "account", "card"]
    return kinds + ["key"] * ("sk-" in text)


def _luhn(card: str) -> bool:
    digits = [int(d) for d in card if d.isdigit()]
    doubled = sum(sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return (sum(digits[::-2]) + doubled) % 10 == 0
