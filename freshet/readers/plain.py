"""Layouts without columns or times: pairs `user item` and sequences `user item item ...`, separated by spaces or tabs.

Times are made up, a second per row in file order, so a user's events keep their order and the stream is the file.

    layout = Pairs() or Sequences()
"""

from dataclasses import dataclass
from typing import Final

from freshet.readers.lines import Times
from freshet.readers.source import BadLine
from stream.events import Event

ACTION: Final = "like"


def split(text: str) -> list[str]:
    """Fields between spaces and tabs. Not `str.split`: its spaces include bytes that are parts of letters in Latin-1 or UTF-8."""
    return [field for field in text.replace("\t", " ").split(" ") if field]


@dataclass(frozen=True)
class Pairs:
    """`user item`, one event a line."""

    name: str = "user item pairs"
    header: bool = False
    timed: bool = False

    def measure(self, text: str) -> tuple[int, str | None]:
        """One row, no time."""
        return 1, None

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """One event."""
        fields = split(text)
        if len(fields) != 2:
            raise BadLine(f"{len(fields)} fields where 2 are wanted")
        return [Event(user_id=fields[0], item_id=fields[1], action=ACTION, ts_ms=times.invented(place))]


@dataclass(frozen=True)
class Sequences:
    """`user item item ...`, one user a line, oldest first; as many rows as items."""

    name: str = "user item sequences"
    header: bool = False
    timed: bool = False

    def measure(self, text: str) -> tuple[int, str | None]:
        """A row per item (a user without items is one bad row), no time."""
        return max(1, len(split(text)) - 1), None

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """An event per item."""
        user, *items = split(text)
        if not items:
            raise BadLine("a user without items")
        return [Event(user_id=user, item_id=item, action=ACTION, ts_ms=times.invented(place + step)) for step, item in enumerate(items)]
