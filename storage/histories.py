"""Histories and seen-sets: what a user did lately, in event-time order, and every item to leave out.

A history blob is one head word (entries | ring length << 16 | ring position << 32), 16 bytes an entry (item; stamp =
time << 16 | action << 8 | surface), then the ring of the last event ids applied, by which duplicates are known.
A seen blob is 16 bytes an item (item; latest time), ascending by item.

    Histories(state, partitions).read(user, partition).items
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numba import njit

from storage import ragged
from storage.arrays import I64s, U8s, U64s
from storage.state import HISTORIES, SEEN, State

RING: Final = 128
"""A duplicate event id among the last RING events applied for its user changes nothing."""
TS_MS_MAX: Final = (1 << 47) - 1
"""Six bytes hold a time: up to the year 6429."""


@dataclass(frozen=True)
class History:
    """A user's latest actions, oldest first, equal times in log order. All arrays (L,)."""

    items: U64s
    ts_ms: I64s
    actions: U8s
    surfaces: U8s

    def __len__(self) -> int:
        return len(self.items)


class HistorySet(NamedTuple):
    """The histories a batch touches, with room for what it adds.

    Row r owns `start[r]:start[r + 1]` of items and stamps, and `ring_start[r]:ring_start[r + 1]` of the ring.
    """

    start: I64s
    items: U64s
    stamps: U64s
    size: I64s
    ring_start: I64s
    ring: U64s
    ring_size: I64s
    ring_next: I64s


class SeenSet(NamedTuple):
    """The seen-sets a batch touches: ascending items, each with its latest time."""

    start: I64s
    items: U64s
    ts_ms: I64s
    size: I64s


class Histories:
    """Reads what ingest wrote; a read after a commit sees it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def read(self, user: int, partition: int) -> History:
        """The user's history; empty when there is none."""
        (blob,) = self._state.read(HISTORIES, partition, np.array([user], dtype=np.uint64))
        return decode(blob)

    def both(self, user: int, partition: int) -> tuple[History, U64s]:
        """`read` and `seen` at once: what a look-up begins with."""
        rows = np.array([user], dtype=np.uint64)
        (history,), (seen,) = self._state.read_many([(HISTORIES, partition, rows), (SEEN, partition, rows)])
        return decode(history), np.frombuffer(seen or b"", dtype=np.uint64)[0::2]

    def seen(self, user: int, partition: int) -> U64s:
        """Ids of the items the user has had, ascending; at most the seen-set's bound, the latest ones."""
        (blob,) = self._state.read(SEEN, partition, np.array([user], dtype=np.uint64))
        return np.frombuffer(blob or b"", dtype=np.uint64)[0::2]


def decode(blob: bytes | None) -> History:
    """A stored blob as arrays."""
    return History(*_columns(np.frombuffer(blob or b"\0" * 8, dtype=np.uint64)))


@njit(cache=True, nogil=True)
def _columns(flat: U64s) -> tuple[U64s, I64s, U8s, U8s]:
    """Items, times, actions and surfaces of one stored history: (L,) each."""
    size = np.int64(flat[0] & np.uint64(0xFFFF))
    items, ts_ms = np.empty(size, np.uint64), np.empty(size, np.int64)
    actions, surfaces = np.empty(size, np.uint8), np.empty(size, np.uint8)
    for i in range(size):
        stamp = flat[2 + 2 * i]
        items[i], ts_ms[i] = flat[1 + 2 * i], np.int64(stamp >> np.uint64(16))
        actions[i], surfaces[i] = np.uint8((stamp >> np.uint64(8)) & np.uint64(255)), np.uint8(stamp & np.uint64(255))
    return items, ts_ms, actions, surfaces


@njit(cache=True, nogil=True)
def load_histories(flat: U64s, begin: I64s, added: I64s, history_max: int) -> HistorySet:
    """Unpack stored histories, end to end as `ragged.words` has them, with room for `added[r]` more entries, never beyond the bound."""
    rows = len(begin) - 1
    size, ring_size, ring_next = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for row in range(rows):
        if begin[row + 1] > begin[row]:
            head = flat[begin[row]]
            size[row] = np.int64(head & np.uint64(0xFFFF))
            ring_size[row] = np.int64((head >> np.uint64(16)) & np.uint64(0xFFFF))
            ring_next[row] = np.int64((head >> np.uint64(32)) & np.uint64(0xFFFF))
    start = ragged.room(size, added, history_max)
    ring_start = ragged.room(ring_size, added, RING)
    items, stamps, ring = np.empty(start[-1], np.uint64), np.empty(start[-1], np.uint64), np.empty(ring_start[-1], np.uint64)
    for row in range(rows):
        at = begin[row] + 1
        for i in range(size[row]):
            items[start[row] + i] = flat[at + 2 * i]
            stamps[start[row] + i] = flat[at + 2 * i + 1]
        for i in range(ring_size[row]):
            ring[ring_start[row] + i] = flat[at + 2 * size[row] + i]
    return HistorySet(start, items, stamps, size, ring_start, ring, ring_size, ring_next)


@njit(cache=True, nogil=True)
def store_histories(held: HistorySet) -> tuple[U64s, I64s]:
    """The working set end to end, and where each row begins: what `ragged.cut` makes blobs of."""
    begin = ragged.starts(1 + 2 * held.size + held.ring_size)
    flat = np.empty(begin[-1], dtype=np.uint64)
    for row in range(len(held.size)):
        at, size, ring_size = begin[row], held.size[row], held.ring_size[row]
        flat[at] = np.uint64(size) | np.uint64(ring_size) << np.uint64(16) | np.uint64(held.ring_next[row]) << np.uint64(32)
        for i in range(size):
            flat[at + 1 + 2 * i] = held.items[held.start[row] + i]
            flat[at + 2 + 2 * i] = held.stamps[held.start[row] + i]
        for i in range(ring_size):
            flat[at + 1 + 2 * size + i] = held.ring[held.ring_start[row] + i]
    return flat, begin


@njit(cache=True, nogil=True)
def load_seen(flat: U64s, begin: I64s, added: I64s, seen_max: int) -> SeenSet:
    """Unpack stored seen-sets with room for `added[r]` more items, never beyond the bound."""
    size = (begin[1:] - begin[:-1]) // 2
    start = ragged.room(size, added, seen_max)
    items, ts_ms = np.empty(start[-1], np.uint64), np.empty(start[-1], np.int64)
    for row in range(len(size)):
        for i in range(size[row]):
            items[start[row] + i] = flat[begin[row] + 2 * i]
            ts_ms[start[row] + i] = np.int64(flat[begin[row] + 2 * i + 1])
    return SeenSet(start, items, ts_ms, size)


@njit(cache=True, nogil=True)
def store_seen(held: SeenSet) -> tuple[U64s, I64s]:
    """The working set end to end, and where each row begins."""
    begin = ragged.starts(2 * held.size)
    flat = np.empty(begin[-1], dtype=np.uint64)
    for row in range(len(held.size)):
        for i in range(held.size[row]):
            flat[begin[row] + 2 * i] = held.items[held.start[row] + i]
            flat[begin[row] + 2 * i + 1] = np.uint64(held.ts_ms[held.start[row] + i])
    return flat, begin
