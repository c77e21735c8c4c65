"""Files of timed events by layout, sorted by time: what the prequential format reads.

    found = read_events(Path("u.data")); found.users, found.items, found.blocks

Source: the evaluation protocol, sections 1 and 4.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.quality.layouts import BadData, Catalogue, read_text
from encoders.base import I64s
from freshet.readers.lines import number
from freshet.readers.source import BadLine

SAMPLE_LINES: Final = 50
USER_COLUMNS: Final = ("user_id", "user")
ITEM_COLUMNS: Final = ("item_id", "item")
TIME_COLUMNS: Final = ("time", "timestamp")


@dataclass(frozen=True)
class Events:
    """n events in order of time, equal times in file order: users (n,), items (n,) as rows, and which events share a time.

    blocks (T + 1,): events blocks[t]..blocks[t + 1] have the same time.
    """

    users: I64s
    items: I64s
    blocks: I64s
    catalogue: Catalogue
    rows_dropped: int


@dataclass(frozen=True)
class Columns:
    """Where a line's user, item and time stand, and what else must be a number."""

    delimiter: str
    count: int
    user: int
    item: int
    time: int
    numbers: tuple[int, ...] = ()
    header: bool = False

    def cells(self, line: str) -> tuple[str, str, float | int]:
        """User, item and time of a line; raises BadLine."""
        fields = [field.strip(" ") for field in line.split(self.delimiter)]
        if len(fields) != self.count or not fields[self.user] or not fields[self.item]:
            raise BadLine(f"{len(fields)} fields where {self.count} are wanted")
        for at in self.numbers:
            number(fields[at], "field")
        time = fields[self.time]
        seconds = number(time, "time")
        return fields[self.user], fields[self.item], int(time) if time.isdecimal() else seconds  # a float is too coarse for nanoseconds


RATINGS: Final = Columns("\t", 4, 0, 1, 3, numbers=(2,))
BEHAVIOURS: Final = Columns(",", 5, 0, 1, 4)


def read_events(path: Path) -> Events:
    """`user item rating time` by tabs, `user,item,category,behaviour,time`, or a first line that names columns; every row is an event.

    A last line without a newline whose time is below all others is cut off: dropped and counted, whatever the share. Raises BadData.
    """
    text = read_text(path)
    columns = _columns(path, text.lines)
    rows, dropped = list[tuple[str, str, float | int]](), 0
    lines = text.lines[columns.header :]
    for line in lines:
        try:
            rows.append(columns.cells(line))
        except BadLine:
            dropped += 1
            last_is_good = False
        else:
            last_is_good = True
    text.check(dropped)
    if not text.ended and last_is_good and len(rows) > 1 and rows[-1][2] < min(row[2] for row in rows[:-1]):
        rows.pop()
        dropped += 1
    rows.sort(key=lambda row: row[2])
    catalogue, people = Catalogue(), Catalogue()
    times = [row[2] for row in rows]
    starts = [at for at in range(len(times)) if at == 0 or times[at] != times[at - 1]]
    return Events(
        people.rows_of(row[0] for row in rows),
        items=catalogue.rows_of(row[1] for row in rows),
        blocks=np.array([*starts, len(rows)], dtype=np.int64),
        catalogue=catalogue,
        rows_dropped=dropped,
    )


def _columns(path: Path, lines: list[str]) -> Columns:
    if not lines:
        raise BadData(f"{path}: holds no lines; give a file with at least one event")
    delimiter = "\t" if "\t" in lines[0] else ","
    names = [name.strip(' "').lower() for name in lines[0].split(delimiter)]
    places = [next((names.index(name) for name in asked if name in names), -1) for asked in (USER_COLUMNS, ITEM_COLUMNS, TIME_COLUMNS)]
    if len(lines) > 1 and min(places) >= 0:
        user, item, time = places
        return Columns(delimiter, len(names), user, item, time, header=True)
    sample = lines[:SAMPLE_LINES]
    for columns in (RATINGS, BEHAVIOURS):
        if 2 * sum(line.count(columns.delimiter) + 1 == columns.count for line in sample) > len(sample):
            return columns
    raise BadData(
        f"{path}: begins {lines[0][:60]!r}; wanted are lines `user item rating time` with tabs, `user,item,category,behaviour,time`, "
        "or a first line that names user, item and time (tabs or commas)"
    )
