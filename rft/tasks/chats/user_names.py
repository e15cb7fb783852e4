"""The names of users: in the files written, and of the files.

Invariant: a file name has no separator and no leading dot, so it never leaves its folder; different users
have different file names, also where case is ignored.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from rft.data.private import replaced

UNSAFE = re.compile(r"[^\w.@+-]")
LONGEST = 120  # bytes; file systems take 255


def pseudonym(user: str) -> str:
    """Returns the user's name, or a name made from its hash if it contains a personal item."""
    return f"user-{_digest(user)}" if replaced(user)[1] else user


def file_names(users: Iterable[str]) -> dict[str, str]:
    """Returns the file name of each user, without suffix. A name that had to be changed, or that differs from
    another only in case, ends with a hash of the user's name."""
    plain = {user: _plain(user) for user in users}
    same = Counter(name.casefold() for user, name in plain.items() if name == user)
    return {
        user: name
        if name and name == user and same[name.casefold()] == 1
        else f"{name or 'user'}-{_digest(user)}"
        for user, name in plain.items()
    }


def _plain(user: str) -> str:
    return UNSAFE.sub("_", user).lstrip(".").encode()[:LONGEST].decode(errors="ignore")


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()[:8]
