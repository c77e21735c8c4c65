"""Counts: how often an item was engaged with, in all and lately, exact per item and partition.

A blob is four words: events, positive events, decayed weight of the positive ones, its landmark (whole half-lives).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storage import decay
from storage.arrays import F64s, I64s, U64s
from storage.state import COUNTS, State

WORDS = 4
EVENTS, POSITIVES, DECAYED, LANDMARK = range(WORDS)
_BYTES = 8 * WORDS
_NOTHING = bytes(_BYTES)


@dataclass(frozen=True)
class ItemCounts:
    """Counts of items summed over partitions. `decayed` is decayed to the moment asked for. All arrays (N,)."""

    events: I64s
    positives: I64s
    decayed: F64s


class Counts:
    """Reads the counts; a read after a commit sees it."""

    def __init__(self, state: State, partitions: int, half_life_ms: int) -> None:
        self._state = state
        self._partitions = partitions
        self._half_life_ms = half_life_ms

    def read(self, items: U64s, *, as_of_ms: int) -> ItemCounts:
        """Counts of these items, zeros where nothing is known."""
        total = ItemCounts(np.zeros(len(items), np.int64), np.zeros(len(items), np.int64), np.zeros(len(items)))
        for blobs in self._state.read_many([(COUNTS, partition, items) for partition in range(self._partitions)]):
            table = load_counts(blobs)
            total = ItemCounts(
                total.events + table[:, EVENTS],
                total.positives + table[:, POSITIVES],
                total.decayed + self.decayed(table, as_of_ms),
            )
        return total

    def decayed(self, table: I64s, as_of_ms: int) -> F64s:
        """The decayed column of a (N, 4) table at `as_of_ms`: (N,)."""
        age = np.clip(as_of_ms / self._half_life_ms - table[:, LANDMARK], -decay.AGE_MAX, decay.AGE_MAX)
        weights: F64s = np.ldexp(table[:, DECAYED].astype(np.float64), -decay.SCALE_BITS) * np.exp2(-age)
        return weights

    def scan(self) -> Iterator[tuple[int, I64s]]:
        """All (item, (4,) row) pairs, partition by partition: an item may come once in each."""
        for partition in range(self._partitions):
            for item, blob in self._state.scan(COUNTS, partition):
                yield item, np.frombuffer(blob, dtype=np.int64)


def load_counts(blobs: Sequence[bytes | None]) -> I64s:
    """Stored counts as a table: (N, 4)."""
    flat = bytearray().join([blob or _NOTHING for blob in blobs])
    return np.frombuffer(flat, dtype=np.int64).reshape(-1, WORDS)


def store_counts(table: I64s) -> list[memoryview]:
    """The table as blobs, one per row."""
    view = memoryview(table.reshape(-1).data).cast("B")
    return [view[at : at + _BYTES] for at in range(0, len(view), _BYTES)]
