"""What a reader hands out: rows of events, good and bad, and the entities beside them.

for row in open_events(path): ...   # row.event, or row.reason and row.raw
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream.events import Entity, Event

EXAMPLES: Final = {
    "MovieLens u.data": "196<TAB>242<TAB>3<TAB>881250949",
    "RecBole .inter": "user_id:token<TAB>item_id:token<TAB>rating:float<TAB>timestamp:float   (first line)",
    "headed CSV": "user_id,item_id,action,timestamp   (first line; tabs or commas; also user, item, time)",
    "Taobao CSV": "543462,1715,1464116,pv,1511658000",
    "user item pairs": "1 5311   (one event a line, in a user's order)",
    "user item sequences": "1 5311 77 420   (one user a line, oldest first)",
    "freshet JSON lines": '{"user_id":"u1","item_id":"i1","action":"view","ts_ms":1704067200000}',
    "freshet Parquet": "columns user_id, item_id, action, ts_ms",
}


class UnknownLayout(ValueError):
    """The file is none of the layouts understood; the message names it, says why, and shows a line of each."""

    def __init__(self, path: Path, why: str) -> None:
        """Name the path and the reason, then every layout with an example."""
        width = max(map(len, EXAMPLES))
        shown = "\n".join(f"  {name:<{width}}  {example}" for name, example in EXAMPLES.items())
        super().__init__(f"{path}: {why}. Understood are:\n{shown}")


class BrokenFile(ValueError):
    """The file began in a known layout and cannot be read on; the message says where."""


class BadLine(ValueError):
    """One line cannot be read; its message is the row's reason."""


@dataclass(frozen=True)
class Row:
    """One line's event, or why there is none. `line_number` counts from 1; `raw` is the line without its newline."""

    line_number: int
    event: Event | None
    raw: bytes
    reason: str | None = None


@dataclass(frozen=True)
class Source:
    """An opened file. `rows` is how many `Row`s it yields; `timed` is false where times were made up in line order."""

    path: Path
    name: str
    rows: int
    timed: bool
    read: Callable[[], Iterator[Row]]
    read_entities: Callable[[], Iterator[Entity]]

    def __iter__(self) -> Iterator[Row]:
        """All rows in file order; every call reads the file again."""
        return self.read()

    def entities(self) -> Iterator[Entity]:
        """The items (and collections, queries) in the file that lies beside this one; nothing where there is none."""
        return self.read_entities()

    def catalogue(self) -> list[str]:
        """Every item id found in the events or beside them, by first appearance; reads both through."""
        ids = dict.fromkeys(entity.id for entity in self.entities() if entity.kind == "item")
        ids.update(dict.fromkeys(row.event.item_id for row in self if row.event is not None and row.event.item_id is not None))
        return list(ids)
