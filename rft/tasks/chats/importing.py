"""Imports chats into a folder: one history per user, and `import.json`, which says what became of every
message.

Invariant: the folder appears whole or not at all, and the same files give the same bytes. Memory is bounded
by the largest conversation and a few numbers per conversation (in a log of single messages, per message), not
by the size of the files.
"""

import filecmp
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from rft.data.private import replaced
from rft.errors import DataError
from rft.files import occupied, replace_folder
from rft.screen import counted, printable
from rft.single_writer import only_writer
from rft.tasks.chats import lines
from rft.tasks.chats.counts import Counts
from rft.tasks.chats.draft import LONGEST_NAME, Draft
from rft.tasks.chats.formats import FORMATS, described, detect
from rft.tasks.chats.reading import Reading
from rft.tasks.chats.shelf import Shelf
from rft.tasks.chats.source import LeftOut, Source, Unreadable, find
from rft.tasks.chats.user_names import file_names, pseudonym
from rft.tasks.chats.values import Broken, values

HISTORIES, RECORD = "histories", "import.json"
VERSION = 1
LISTED = 1000
"""Problems of one file that import.json lists; the others are counted."""


@dataclass(frozen=True)
class Settings:
    """What to do.

    Attributes:
        format: a name of FORMATS; None: detected for each file.
        user: the user of all chats; None: as the data say, else by file.
        replace_private: whether personal items are replaced by placeholders.
    """

    format: str | None = None
    user: str | None = None
    replace_private: bool = False


DEFAULT = Settings()


@dataclass
class _File:
    """What was found in one file. `dropped` are values that are no conversation, so they have no user."""

    name: str
    format: ModuleType | None
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0
    lost: bool = False


class _Import:
    def __init__(self, settings: Settings, shelf: Shelf, reading: Reading, left_out: list[LeftOut]):
        self.settings, self.shelf, self.reading, self.left_out = settings, shelf, reading, left_out
        self.files: list[_File] = []
        self.counts: dict[tuple[str, str], Counts] = {}
        self.origins: dict[str, Path] = {}
        self.joined: set[str] = set()  # users of the data that --user makes one

    def read(self, source: Source) -> None:
        """Reads a file onto the shelf."""
        settings = self.settings
        file = _File(source.name, FORMATS[settings.format] if settings.format else None)
        self.files.append(file)
        seen: set[str] = set()
        empty = True
        try:
            with source.open(self.reading.advance) as stream:
                for place, value in values(stream):
                    empty = False
                    self._value(value, place, source, file, seen)
        except Unreadable as error:
            file.lost = True
            self._problem(file, "", f"cannot be read further ({error}); download it again, or copy it here")
        if empty and not file.lost:
            self._problem(file, "", "nothing in it; expected chats as JSON")

    def _value(self, value: Any, place: str, source: Source, file: _File, seen: set[str]) -> None:
        if isinstance(value, Broken):
            lost = f"; what follows cannot be read: {value.remedy}" if value.last else ""
            file.lost |= value.last
            file.dropped["broken JSON"] += 1
            return self._problem(file, place, value.reason + lost)
        if file.format is None and (found := detect(value)):
            file.format = found
            self.reading.say(f"{source.name}: {found.TITLE}")
        if file.format is None or not file.format.matches(value):
            expected = file.format.TITLE if file.format else "one of the formats " + ", ".join(FORMATS)
            file.dropped["unknown format"] += 1
            return self._problem(file, place, f"expected {expected}, found {described(value)}")
        single = file.format is lines
        draft = Draft(seen=seen if single else set())
        file.format.read(value, draft)
        user = self._user(draft, source)
        counts = self.counts.setdefault((source.name, user), Counts())
        counts.dropped += draft.dropped
        if draft.messages:
            self._keep(user, source, draft, file.format)
        elif not single:
            counts.dropped_conversations["nothing left" if draft.dropped else "empty"] += 1
            if not draft.problems:
                draft.problem("no message is left of it" if draft.dropped else "an empty conversation")
        name = f" ({draft.id[:LONGEST_NAME]})" if draft.id and not single else ""
        for problem in draft.problems:
            self._problem(file, place + name, problem)

    def _keep(self, user: str, source: Source, draft: Draft, format: ModuleType) -> None:
        if format is lines:
            return self.shelf.append(user, source.name, draft, (format.NAME, source.name, draft.id))
        id = (format.NAME, draft.id) if draft.id else ()
        if other := self.shelf.put(user, source.name, draft, id):
            counts = self.counts.setdefault((other.file, user), Counts())
            counts.dropped_conversations["duplicate id"] += 1
            counts.dropped["conversation with a duplicate id"] += other.messages

    def _user(self, draft: Draft, source: Source) -> str:
        """The user of a conversation: as given, as the data say, or by the file."""
        if self.settings.user:
            self.joined |= {draft.user} - {""}
        elif not draft.user and self.origins.setdefault(source.user, source.origin) != source.origin:
            raise DataError(
                f"{source.origin} and {self.origins[source.user]}: both would be user {source.user!r}; give"
                " --user if they are the same person, or rename one"
            )
        return self._written(draft.user or source.user)

    def _written(self, user: str) -> str:
        """A user's name as it is written."""
        user = self.settings.user or user
        return pseudonym(user) if self.settings.replace_private else user

    def _public(self, text: str) -> str:
        """A text for the record, with its private items replaced if the settings say so."""
        return replaced(text)[0] if self.settings.replace_private else text

    def _problem(self, file: _File, place: str, text: str) -> None:
        line = self._public(printable(f"{place}: {text}" if place else text))
        self.reading.problem(file.name, line)
        if len(file.problems) < LISTED:
            file.problems.append(line)
        else:
            file.more_problems += 1

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the histories and the record, and returns the record."""
        in_order_of_file: Counter[str] = Counter()
        for user, entries in self.shelf.users.items():
            for entry in entries.values():
                in_order_of_file[entry.file] += entry.in_order_of_file
                counts = self.counts[entry.file, user]
                counts.conversations += 1
                counts.messages += entry.messages
                counts.mapped += entry.mapped
        if not any(counts.messages for counts in self.counts.values()):
            problems = [f"{file.name}: {problem}" for file in self.files for problem in file.problems]
            reason = problems[0] if problems else f"{self.files[0].name}: no message of a user in it"
            raise DataError(f"nothing is written, since no chat could be used: {reason}")
        by_file: defaultdict[str, dict[str, Counts]] = defaultdict(dict)
        for (name, user), counts in self.counts.items():
            by_file[name][user] = counts
        for file in self.files:
            self._name_the_lost(file, by_file[file.name])
            if number := in_order_of_file[file.name]:
                where = f"in {counted(number, 'conversation')}, not every message has a date"
                self._problem(file, "", f"{where}: its messages stay in the order of the file")
        if len(self.joined) > 1:
            self.reading.say(f"--user: the data name {len(self.joined)} users, which are imported as one")
        (folder / HISTORIES).mkdir()
        totals: dict[str, Counts] = {}
        for (_, user), counts in self.counts.items():
            totals.setdefault(user, Counts()).add(counts)
        names = file_names(sorted(self.shelf.users))
        record = {
            "version": VERSION,
            "settings": {
                "format": self.settings.format or "auto",
                "user": self.settings.user and self._written(self.settings.user),
                "replace_private": self.settings.replace_private,
            },
            "users_made_one": len(self.joined),
            "files": [self._of_file(file, by_file[file.name]) for file in self.files],
            "left_out": [
                {
                    "source": self._public(left.source),
                    "reason": left.reason,
                    "files": [self._public(name) for name in left.files],
                }
                for left in self.left_out
            ],
            "users": {
                user: totals[user].to_json()
                | (self._history(user, folder, f"{HISTORIES}/{names[user]}.json") if user in names else {})
                for user in sorted(totals)
            },
        }
        text = json.dumps(record, ensure_ascii=False, indent=1)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        return record

    def _name_the_lost(self, file: _File, counts: dict[str, Counts]) -> None:
        """Says of which users in a file no message is in a history, or that this is so of the whole file."""
        used = {user for user, c in counts.items() if c.messages or c.dropped_conversations["duplicate id"]}
        if not used and (counts or file.dropped):
            self._problem(file, "", "no message of this file is in a history")
        for user in counts if used else ():
            if user not in used:
                self._problem(file, "", f"no message of user {user} is in a history")

    def _of_file(self, file: _File, counts: dict[str, Counts]) -> dict[str, Any]:
        return {
            "file": self._public(file.name),
            "format": file.format.NAME if file.format else None,
            "read_to_its_end": not file.lost,
            "dropped": dict(sorted(file.dropped.items())),
            "users": {user: of_user.to_json() for user, of_user in counts.items()},
            "problems": file.problems,
            "more_problems": file.more_problems,
        }

    def _history(self, user: str, folder: Path, name: str) -> dict[str, Any]:
        """Writes one history, message by message; returns what the record says of it."""
        private: Counter[str] = Counter()
        sessions, dated, first, last = 0, set(), "", ""
        with open(folder / name, "w", encoding="utf-8") as file:
            file.write('{"chat_history": [')
            for session, said in self.shelf.messages(user):
                content, found = replaced(said.content)
                private += found
                message = {
                    "role": said.role,
                    "content": content if self.settings.replace_private else said.content,
                    "session": session,
                }
                if said.date:
                    message["date"] = said.date
                    first, last = min(first or said.date, said.date), max(last, said.date)
                    dated.add(session)
                file.write("," * bool(sessions) + "\n" + json.dumps(message, ensure_ascii=False))
                sessions = session
            metadata = {"persona_id": user, "sessions": sessions}
            file.write(f'\n], "metadata": {json.dumps(metadata, ensure_ascii=False)}}}\n')
        return {
            "history": name,
            "sessions_without_date": sessions - len(dated),
            "first": first or None,
            "last": last or None,
            "private": dict(sorted(private.items())),
        }


def import_chats(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: Settings = DEFAULT,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Imports chats into the folder `out`.

    If `out` already contains the same import, nothing is written.

    Args:
        paths: files, folders or zips of chats.
        out: output folder.
        settings: what to do; by default, detect each file's format and user, and keep private items.
        overwrite: replace another import in `out`, after the new one is complete.
        console: console for progress and problems (default: stderr).

    Returns:
        The record, as written to `import.json`, and `unchanged`: whether it was there before.

    Raises:
        DataError: a path is no chats, nothing in them can be used, or `out` contains something else.
    """
    out = Path(out).expanduser()
    sources, left_out = find([Path(path) for path in paths], out)
    out = out if out.name not in ("", "..") else out.resolve()
    if occupied(out) and not (out / RECORD).is_file():
        raise DataError(f"{out}: contains something else than imported chats; use another --out")
    partial = out.parent / f".{out.name}.partial"
    with only_writer(out, "import"):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with (
                Shelf(partial / "shelf.jsonl") as shelf,
                Reading(sum(source.size for source in sources), console) as reading,
            ):
                for left in left_out:
                    reading.say(f"{left.source}: left out {left.listed}: {left.reason}")
                work = _Import(settings, shelf, reading, left_out)
                for source in sources:
                    work.read(source)
                record = work.write(partial)
            return record | {"unchanged": _publish(partial, out, overwrite)}
        except OSError as error:
            reason = f"{error.strerror or error}; free space, or choose another folder"
            raise DataError(f"{out}: cannot write the import: {reason}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, out: Path, overwrite: bool) -> bool:
    """Gives the folder its name. Returns whether `out` had the same content."""
    if occupied(out):
        old, new = _ours(out), _ours(partial)
        if old == new and not filecmp.cmpfiles(out, partial, new, shallow=False)[1]:
            return True
        if not overwrite:
            raise DataError(
                f"{out}: contains another import; nothing was changed. Use another --out, or --overwrite to"
                " replace it"
            )
        if strange := sorted({str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - set(old)):
            raise DataError(
                f"{out}: also contains {strange[0]}, which is no part of an import, so --overwrite does not"
                " remove it; move it, or use another --out"
            )
    replace_folder(out, partial)
    return False


def _ours(folder: Path) -> list[str]:
    """The files of an import, relative to its folder."""
    return [RECORD, *(f"{HISTORIES}/{path.name}" for path in sorted((folder / HISTORIES).glob("*.json")))]
