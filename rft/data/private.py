"""Finds personal items in a text that could belong to a real person.

The items are telephone numbers, e-mail addresses, social security numbers, card numbers, account numbers
(IBAN), and API keys.

Items in ranges reserved for examples belong to nobody and are not reported: example.com, 555-0100 to
555-0199, social security areas 000, 666 and 900 and above, cards with industry digit 0, IBANs of country XX,
keys that contain EXAMPLE.

Invariant: a long run of digits is only a card if an issuer has such numbers and its check digit is right, and
a long word is only an account if its check digits are; so timestamps and most order numbers stay.
"""

import re
from collections import Counter
from collections.abc import Callable

# a match starts at the start of a run of such characters; without this, a run of n takes n * n steps
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w.-])(?:\+?1[ .-])?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])")
SOCIAL = re.compile(r"(?<![\w-])\d{3}(?:-\d{2}-| \d{2} )\d{4}(?![\w-])")
CARD = re.compile(
    r"""(?<![\w-])(?<!\d\.)(?:
        (?:\d{4}[ -]){3}\d{4}                               # grouped, of any issuer
        | 3[47]\d{2}[ -]\d{6}[ -]\d{5} | 3[47]\d{13}       # American Express
        | (?:4\d | 5[1-5] | 2[2-7])\d{14}                   # Visa, Mastercard
        | (?:6011 | 64[4-9]\d | 65\d{2} | 35\d{2})\d{12}    # Discover, JCB
    )(?![\w-])""",
    re.VERBOSE,
)
IBAN = re.compile(
    r"\b[A-Z]{2}\d{2}(?:(?: [A-Z0-9]{4}){3,}(?: (?=[A-Z]*\d)[A-Z0-9]{1,3}\b)?|[A-Z0-9]{11,30}\b)"
)
KEY = re.compile(
    r"""\bsk-[\w-]{12,}                                     # OpenAI, Anthropic and others
    | \bgh[opsur]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{20,}
    | \b(?:AKIA | ASIA)[A-Z0-9]{16}\b                       # AWS
    | \bhf_[A-Za-z0-9]{20,}
    | \bxox[abprs]-[\w-]{10,}                              # Slack
    | \bAIza[\w-]{35}                                      # Google
    | \b[rs]k_live_[A-Za-z0-9]{10,}                        # Stripe
    | (?<![\w-])eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*              # a JSON web token
    | -----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY-----(?:(?!-----)[\s\S])*+-----END\ [A-Z ]*PRIVATE\ KEY-----""",
    re.VERBOSE,
)
# every telephone, card, account or social security number contains a match of this
NUMBERS = re.compile(r"\d{2}[ .-]?[A-Z0-9]{4}")
# every key contains one of these
KEY_PARTS = (
    *("sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "hf_", "xox"),
    *("AIza", "k_live_", "eyJ", "PRIVATE KEY-----"),
)
RESERVED_DOMAIN = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid))$", re.IGNORECASE
)
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (EMAIL, lambda item: not RESERVED_DOMAIN.search(item)),
    "phone": (PHONE, lambda item: not re.search(r"555\D01\d\d$", item)),
    "social security": (SOCIAL, lambda item: item[:3] not in ("000", "666") and item[0] != "9"),
    "account": (IBAN, lambda item: not item.startswith("XX") and (" " in item or _mod_97(item))),
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
    return kinds + ["key"] * any(part in text for part in KEY_PARTS)


def _luhn(card: str) -> bool:
    digits = [int(d) for d in card if d.isdigit()]
    doubled = sum(sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return (sum(digits[::-2]) + doubled) % 10 == 0


def _mod_97(account: str) -> bool:
    """Whether the check digits of an IBAN are right."""
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1
