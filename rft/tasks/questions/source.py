"""The histories that questions are written about: `DIR/histories/*.json`, as `rft chats import` writes them.

Invariant: each conversation is in the list once, whatever its files are called.
"""

from dataclasses import dataclass
from pathlib import Path

from rft.data.history import read_history
from rft.errors import DataError
from rft.tasks.dataset_writer import HISTORIES, Dropped


@dataclass(frozen=True)
class Source:
    """One history.

    Attributes:
        path: its file.
        person: whose it is: as the file says, else the name of the file.
        id: its `History.id`.
    """

    path: Path
    person: str
    id: str

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return self.path.stem

    @property
    def place(self) -> str:
        """The file relative to the folder, for messages."""
        return f"{HISTORIES}/{self.path.name}"


def find_sources(chats: Path) -> tuple[list[Source], list[Dropped]]:
    """Reads every history of a folder once.

    Returns:
        The histories, and what cannot be used, with the reasons.

    Raises:
        DataError: there is no history that can be used.
    """
    paths = sorted((chats / HISTORIES).glob("*.json"))
    if not paths:
        inside = chats.name == HISTORIES and any(chats.glob("*.json"))
        raise DataError(
            f"{chats}: no {HISTORIES}/*.json in it; expected a folder that `rft chats import` wrote"
            + (f"; did you mean --chats {chats.parent}?" if inside else "")
        )
    sources: dict[str, Source] = {}
    dropped = []
    for path in paths:
        place = f"{HISTORIES}/{path.name}"
        try:
            history = read_history(path)
        except DataError as error:
            dropped.append(Dropped(place, str(error).removeprefix(f"{path}: ")))
            continue
        if history.id in sources:
            dropped.append(Dropped(place, f"the same conversation as {sources[history.id].place}"))
        else:
            sources[history.id] = Source(path, history.persona_id or path.stem, history.id)
    if not sources:
        raise DataError(f"{chats / dropped[0].where}: {dropped[0].reason}")
    return list(sources.values()), dropped
