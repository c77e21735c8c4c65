"""What was met lately: a bounded set of (id, checksum) pairs in one table of words, asked for whole columns at a time.

met = Met(2_000_000); met.strange(ids, checksums); met.add(ids, checksums)
"""

from typing import Final

import numpy as np
from numba import njit

from storage.arrays import I64s, U64s

SLOTS_MIN: Final = 1024


class Met:
    """At most `pairs_max` ids, a checksum each; ids are hashes, never 0. It starts over when it is full."""

    def __init__(self, pairs_max: int) -> None:
        self._pairs_max = pairs_max
        self.clear()

    def __len__(self) -> int:
        return self._held

    def clear(self) -> None:
        """Forget all."""
        self._held, self._slots = 0, np.zeros((SLOTS_MIN, 2), dtype=np.uint64)

    def strange(self, ids: U64s, checksums: U64s) -> I64s:
        """Rows of ids that are not here with this checksum; an id of 0 is nobody."""
        return _strange(self._slots, ids, checksums)

    def add(self, ids: U64s, checksums: U64s) -> None:
        """Remember distinct ids. Of those that would be too many for an empty set the first are kept."""
        if self._held + len(ids) > self._pairs_max:
            self.clear()
            ids, checksums = ids[: self._pairs_max], checksums[: self._pairs_max]
        while 2 * (self._held + len(ids)) > len(self._slots):
            held = self._slots[self._slots[:, 0] != 0]
            self._slots = np.zeros((2 * len(self._slots), 2), dtype=np.uint64)
            _add(self._slots, held[:, 0], held[:, 1])
        self._held += _add(self._slots, ids, checksums)


@njit(cache=True, nogil=True)
def _slot(slots: U64s, node: int):  # type: ignore[no-untyped-def]
    """Where an id is, or would be."""
    mask = np.uint64(len(slots) - 1)
    at = node & mask
    while slots[at, 0] != 0 and slots[at, 0] != node:
        at = (at + np.uint64(1)) & mask
    return at


@njit(cache=True, nogil=True)
def _strange(slots: U64s, ids: U64s, checksums: U64s) -> I64s:
    rows, count = np.empty(len(ids), dtype=np.int64), 0
    for row in range(len(ids)):
        if ids[row] == 0:
            continue
        at = _slot(slots, ids[row])
        if slots[at, 0] == 0 or slots[at, 1] != checksums[row]:
            rows[count] = row
            count += 1
    return rows[:count]


@njit(cache=True, nogil=True)
def _add(slots: U64s, ids: U64s, checksums: U64s) -> int:
    """How many were new."""
    new = 0
    for row in range(len(ids)):
        at = _slot(slots, ids[row])
        new += slots[at, 0] == 0
        slots[at, 0], slots[at, 1] = ids[row], checksums[row]
    return new
