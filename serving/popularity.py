"""Popularity in memory: how often each item was engaged with, in all and lately, kept fresh commit by commit.

The truth is `storage/counts.py`; this is its mirror by catalogue row. What happened lately is held as one number an
item, *heat* = log2(decayed weight) + its landmark in half-lives. All items cool at one rate, so time passing changes no
order and rewrites nothing; a score at a moment is exp2(heat - moment / half_life) of the rows asked for.

    popularity = Popularity(index, counts, partitions=1, half_life_ms=week); popularity.load()
    popularity.update(applied.items, applied.counts)      # after the catalogue has learned the items that are new
"""

import threading
from dataclasses import dataclass

import numpy as np
from numba import njit

from serving.rows import RowIndex
from storage import decay
from storage.arrays import F64s, I64s, U64s
from storage.counts import DECAYED, EVENTS, LANDMARK, POSITIVES, Counts

TOUCHED_MAX = 512
"""Rows changed since the pool was last drawn; one more, and it is drawn anew (1 ms per 100,000 items)."""


@dataclass(frozen=True)
class Heat:
    """The counts as one look-up sees them, by catalogue row, (I,) each. `heat` is -inf for what nobody liked."""

    events: F64s
    positives: F64s
    heat: F64s
    half_life_ms: int

    def recent(self, rows: I64s, now_ms: int) -> F64s:
        """Decayed weights of these rows at a moment: (N,). 1.0 is one engagement of weight 1, now."""
        weights: F64s = np.exp2(np.minimum(self.heat[rows] - now_ms / self.half_life_ms, 1000.0))
        return weights


class Popularity:
    """Counts by catalogue row. `pool_max` bounds how many top rows are kept at hand. One writer, any readers."""

    def __init__(self, index: RowIndex, counts: Counts, *, partitions: int, half_life_ms: int, pool_max: int = 4000) -> None:
        self._index, self._counts, self._partitions = index, counts, partitions
        self._half_life_ms, self._pool_max = half_life_ms, pool_max
        self._lock = threading.Lock()
        self._events, self._positives, self._heat = np.zeros(1024), np.zeros(1024), np.full(1024, -np.inf)
        self._size = 0
        self._pools: tuple[I64s, I64s] | None = None
        self._touched: set[int] = set()

    def load(self) -> None:
        """Take every count the state holds: at start, once the catalogue is loaded."""
        found = dict(self._counts.scan())
        if found:
            self.update(np.array(list(found), dtype=np.uint64), np.array(list(found.values())))

    def update(self, items: U64s, table: I64s) -> None:
        """Take the new counts of items (N,), table (N, 4) as committed. Items the catalogue does not know are left out.

        With several partitions a row holds one partition's share, so the sums are read back from the state.
        """
        if len(items) == 0:
            return
        if self._partitions == 1:
            self._put(items, table)
        else:
            self._put_summed(np.unique(items), int(table[:, LANDMARK].max()))

    def reload(self, items: U64s, newest_ms: int) -> None:
        """Read the counts of distinct items from the state: for who does not see the commits.

        `newest_ms`: the newest event's time, not the clock's: what a log replayed years later holds would be all equally old by that.
        """
        self._put_summed(items, newest_ms // self._half_life_ms)

    def snapshot(self, items: int) -> Heat:
        """The counts of the first `items` catalogue rows; not copied, so a commit may show in it while it is read."""
        with self._lock:
            self._make_room(items)
            return Heat(self._events[:items], self._positives[:items], self._heat[:items], self._half_life_ms)

    def top(self, k: int) -> tuple[I64s, I64s]:
        """Rows worth proposing: the k most liked ever and the k hottest, in no order; fewer where fewer were ever counted.

        Exact but for items deleted since: untouched rows keep their order however much time passes.
        """
        with self._lock:
            if self._pools is None or len(self._touched) > TOUCHED_MAX:
                self._pools = _largest(self._positives[: self._size], self._pool_max), _largest(self._heat[: self._size], self._pool_max)
                self._touched.clear()
            touched = np.fromiter(self._touched, np.int64, len(self._touched))
            liked, hot = (np.union1d(pool, touched) for pool in self._pools)
            return liked[_largest(self._positives[liked], k)], hot[_largest(self._heat[hot], k)]

    def _put(self, items: U64s, table: I64s) -> None:
        self._set(items, table[:, EVENTS], positives=table[:, POSITIVES], heat=_heat(table))

    def _put_summed(self, items: U64s, newest: int) -> None:
        as_of_ms = newest * self._half_life_ms
        summed = self._counts.read(items, as_of_ms=as_of_ms)
        with np.errstate(divide="ignore"):
            heat = np.log2(summed.decayed) + newest
        self._set(items, summed.events, positives=summed.positives, heat=heat)

    def _set(self, items: U64s, events: I64s, *, positives: I64s, heat: F64s) -> None:
        rows = self._index.rows(items)
        touched = rows.tolist()
        if -1 in touched:
            known = rows >= 0
            rows, events, positives, heat = rows[known], events[known], positives[known], heat[known]
            touched = rows.tolist()
        if not touched:
            return
        with self._lock:
            self._size = max(self._size, max(touched) + 1)
            self._make_room(self._size)
            self._events[rows], self._positives[rows], self._heat[rows] = events, positives, heat
            if len(self._touched) <= TOUCHED_MAX:
                self._touched.update(touched)

    def _make_room(self, items: int) -> None:
        short = items - len(self._events)
        if short > 0:
            more = max(short, len(self._events))
            self._events = np.concatenate([self._events, np.zeros(more)])
            self._positives = np.concatenate([self._positives, np.zeros(more)])
            self._heat = np.concatenate([self._heat, np.full(more, -np.inf)])


@njit(cache=True, nogil=True)
def _heat(table: I64s) -> F64s:
    """log2(decayed weight) + landmark of counts (N, 4), -inf without a weight: (N,)."""
    heat = np.full(len(table), -np.inf)
    for row in range(len(table)):
        if table[row, DECAYED] > 0:
            heat[row] = np.log2(np.float64(table[row, DECAYED])) - decay.SCALE_BITS + table[row, LANDMARK]
    return heat


def _largest(values: F64s, k: int) -> I64s:
    """Positions of the k largest values, in no order."""
    if k >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - k)[len(values) - k :]
