"""Histories and seen-sets: what a user did lately, in event-time order, and every item to leave out.

A history blob is one head word (entries | ring length << 16 | ring position << 32), 16 bytes an entry (item; stamp =
time << 16 | action << 8 | surface), then the ring of the last event ids applied, by which duplicates are known.
A seen blob is 16 bytes an item (item; latest time), ascending by item.

    Histories(state, partitions).read(user, partition).items
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


@dataclass
class HistorySet:
    """The histories a batch touches, with room for what it adds: row r owns `start[r]:start[r + 1]` of items and stamps."""

    start: I64s
    items: U64s
    stamps: U64s
    size: I64s
    ring: U64s
    ring_size: I64s
    ring_next: I64s


@dataclass
class SeenSet:
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
    flat = np.frombuffer(blob or b"\0" * 8, dtype=np.uint64)
    size = int(flat[0]) & 0xFFFF
    stamps = flat[2 : 1 + 2 * size : 2] if size else flat[:0]
    return History(
        items=flat[1 : 1 + 2 * size : 2],
        ts_ms=(stamps >> np.uint64(16)).astype(np.int64),
        actions=((stamps >> np.uint64(8)) & np.uint64(255)).astype(np.uint8),
        surfaces=(stamps & np.uint64(255)).astype(np.uint8),
    )


def load_histories(blobs: Sequence[bytes | None], added: I64s, *, history_max: int) -> HistorySet:
    """Unpack stored histories with room for `added[r]` more entries, never beyond the bound."""
    flat, begin = ragged.words(blobs)
    size = _sizes(flat, begin)
    start = ragged.room(size, added, history_max)
    rows, total = len(blobs), int(start[-1])
    held = HistorySet(
        start=start,
        items=np.empty(total, np.uint64),
        stamps=np.empty(total, np.uint64),
        size=size,
        ring=np.zeros((rows, RING), np.uint64),
        ring_size=np.zeros(rows, np.int64),
        ring_next=np.zeros(rows, np.int64),
    )
    _unpack(flat, begin, start, held.items, held.stamps, held.ring, held.ring_size, held.ring_next)
    return held


def store_histories(held: HistorySet) -> list[memoryview]:
    """The working set as blobs, one per row."""
    begin = ragged.starts(1 + 2 * held.size + held.ring_size)
    return ragged.cut(_pack(begin, held.start, held.items, held.stamps, held.size, held.ring, held.ring_size, held.ring_next), begin)


def load_seen(blobs: Sequence[bytes | None], added: I64s, *, seen_max: int) -> SeenSet:
    """Unpack stored seen-sets with room for `added[r]` more items, never beyond the bound."""
    flat, begin = ragged.words(blobs)
    size = (begin[1:] - begin[:-1]) // 2
    start = ragged.room(size, added, seen_max)
    items, ts_ms = np.empty(int(start[-1]), np.uint64), np.empty(int(start[-1]), np.int64)
    _unpack_pairs(flat, begin, start, items, ts_ms)
    return SeenSet(start, items, ts_ms, size)


def store_seen(held: SeenSet) -> list[memoryview]:
    """The working set as blobs, one per row."""
    begin = ragged.starts(2 * held.size)
    return ragged.cut(_pack_pairs(begin, held.start, held.items, held.ts_ms, held.size), begin)


@njit(cache=True, nogil=True)
def _sizes(flat: U64s, begin: I64s) -> I64s:
    size = np.zeros(len(begin) - 1, dtype=np.int64)
    for row in range(len(size)):
        if begin[row + 1] > begin[row]:
            size[row] = np.int64(flat[begin[row]] & np.uint64(0xFFFF))
    return size


@njit(cache=True, nogil=True)
def _unpack(flat: U64s, begin: I64s, start: I64s, items: U64s, stamps: U64s, ring: U64s, ring_size: I64s, ring_next: I64s) -> None:
    for row in range(len(begin) - 1):
        at = begin[row]
        if begin[row + 1] == at:
            continue
        head = flat[at]
        size = np.int64(head & np.uint64(0xFFFF))
        ring_size[row] = np.int64((head >> np.uint64(16)) & np.uint64(0xFFFF))
        ring_next[row] = np.int64((head >> np.uint64(32)) & np.uint64(0xFFFF))
        for i in range(size):
            items[start[row] + i] = flat[at + 1 + 2 * i]
            stamps[start[row] + i] = flat[at + 2 + 2 * i]
        for i in range(ring_size[row]):
            ring[row, i] = flat[at + 1 + 2 * size + i]


@njit(cache=True, nogil=True)
def _pack(begin: I64s, start: I64s, items: U64s, stamps: U64s, size: I64s, ring: U64s, ring_size: I64s, ring_next: I64s) -> U64s:
    flat = np.empty(begin[-1], dtype=np.uint64)
    for row in range(len(size)):
        at = begin[row]
        flat[at] = np.uint64(size[row]) | np.uint64(ring_size[row]) << np.uint64(16) | np.uint64(ring_next[row]) << np.uint64(32)
        for i in range(size[row]):
            flat[at + 1 + 2 * i] = items[start[row] + i]
            flat[at + 2 + 2 * i] = stamps[start[row] + i]
        for i in range(ring_size[row]):
            flat[at + 1 + 2 * size[row] + i] = ring[row, i]
    return flat


@njit(cache=True, nogil=True)
def _unpack_pairs(flat: U64s, begin: I64s, start: I64s, items: U64s, ts_ms: I64s) -> None:
    for row in range(len(begin) - 1):
        for i in range((begin[row + 1] - begin[row]) // 2):
            items[start[row] + i] = flat[begin[row] + 2 * i]
            ts_ms[start[row] + i] = np.int64(flat[begin[row] + 2 * i + 1])


@njit(cache=True, nogil=True)
def _pack_pairs(begin: I64s, start: I64s, items: U64s, ts_ms: I64s, size: I64s) -> U64s:
    flat = np.empty(begin[-1], dtype=np.uint64)
    for row in range(len(size)):
        for i in range(size[row]):
            flat[begin[row] + 2 * i] = items[start[row] + i]
            flat[begin[row] + 2 * i + 1] = np.uint64(ts_ms[start[row] + i])
    return flat
