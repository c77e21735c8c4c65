"""What a training reads of an archive of any length: the newest events whole, and of the older ones some users' whole histories.

    read = read_for_training(archive, most=2_000_000); read.table(), read.share

A sample of users and not of events: half a history teaches sequences that nobody had. Who is in the sample is told by a hash of the user's
name, so one archive gives one sample, a training after the next finds the same users again, and nothing has to be kept between them. Which
part of the users fits is found on the way, by halves: when the older rows get too many, every second user of the sample leaves.

Source of the halving: Wegman's adaptive sampling (Flajolet, On adaptive sampling, Computing 43, 1990). We differ: rows are counted, not
distinct names.
"""

from collections import deque
from typing import Final

import numpy as np
import pyarrow as pa

from freshet.learning.job import EVENTS_MAX
from storage.archive import Archive
from storage.arrays import Bools
from storage.columns import ARCHIVE_SCHEMA
from storage.ids import USER, hash_laid
from storage.xxh3 import laid_out

_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""Partitions and tables take a user's hash as it is; the sample must not follow them."""
_HALVES_MAX: Final = 63


class Reservoir:
    """At most `most` rows of all that were added, in their order: the newest `most // 2` whole, older ones of a sample of users.

    Holds up to one added table more while it is filled.
    """

    def __init__(self, most: int) -> None:
        assert most >= 2, f"at least a newest and an older row: {most}"
        self._recent: deque[pa.Table] = deque()
        self._older: list[pa.Table] = []
        self._newest, self._room = most // 2, most - most // 2
        self._recent_rows = self._older_rows = self.halves = 0

    @property
    def share(self) -> float:
        """Which part of all users the older rows are of."""
        return float(0.5**self.halves)

    def add(self, table: pa.Table) -> None:
        """Take the next rows."""
        self._recent.append(table)
        self._recent_rows += table.num_rows
        while (over := self._recent_rows - self._newest) > 0:
            first = self._recent.popleft()
            leaving = first.slice(0, over)
            if leaving.num_rows < first.num_rows:
                self._recent.appendleft(first.slice(over))
            self._recent_rows -= leaving.num_rows
            self._keep(leaving)

    def table(self) -> pa.Table:
        """All that is held, older rows first, in one piece."""
        return pa.concat_tables([ARCHIVE_SCHEMA.empty_table(), *self._older, *self._recent]).combine_chunks()

    def _keep(self, leaving: pa.Table) -> None:
        kept = _of_sample(leaving, self.halves)
        self._older.append(kept)
        self._older_rows += kept.num_rows
        while self._older_rows > self._room and self.halves < _HALVES_MAX:
            self.halves += 1
            self._older = [_of_sample(table, self.halves) for table in self._older]
            self._older_rows = sum(table.num_rows for table in self._older)


def read_for_training(archive: Archive, *, most: int = EVENTS_MAX, below: int | None = None) -> Reservoir:
    """The archive's rows up to append `below`, as `Reservoir` says: all of them where they are no more than `most`.

    Memory is bounded by these rows twice and one roll. Raises `ArchiveDamaged`.
    """
    reservoir = Reservoir(most)
    for table in archive.scan(below=below):
        reservoir.add(table)
    return reservoir


def _of_sample(table: pa.Table, halves: int) -> pa.Table:
    """Rows of the users whose hash begins with `halves` zeros, of all of them with 0; else a row without a user is of none of them."""
    if halves == 0:
        return table
    names = table.column("user_id").combine_chunks()
    drawn = hash_laid(laid_out(names.fill_null("")), USER) * _SPREAD
    chosen: Bools = (drawn >> np.uint64(64 - halves)) == 0
    return table.filter(pa.array(chosen & np.asarray(names.is_valid())))
