"""Many small blobs as one array: joined with room to grow, and cut apart again without copying.

Blobs are little-endian 64-bit words. A *working set* is one flat array in which row r owns `start[r]:start[r + 1]`; a
batch is reduced inside it and each row is then cut out to be stored.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numba import njit

from storage.arrays import I64s, U64s

Blob = bytes | memoryview


def words(blobs: Sequence[bytes | None]) -> tuple[U64s, I64s]:
    """All blobs end to end as words, and where each begins: (W,), (R + 1,)."""
    lengths = [len(b) // 8 if b else 0 for b in blobs]
    start = np.fromiter(accumulate(lengths, initial=0), dtype=np.int64, count=len(lengths) + 1)
    return np.frombuffer(b"".join([b for b in blobs if b]), dtype=np.uint64), start


def cut(flat: U64s, start: I64s) -> list[memoryview]:
    """The rows of a flat array as bytes-like views, in order."""
    view = memoryview(flat.data).cast("B")
    ends = (start * 8).tolist()
    return [view[ends[i] : ends[i + 1]] for i in range(len(ends) - 1)]


@njit(cache=True, nogil=True)
def starts(capacity: I64s) -> I64s:
    """Row offsets of a working set with these capacities."""
    start = np.zeros(len(capacity) + 1, dtype=np.int64)
    for row in range(len(capacity)):
        start[row + 1] = start[row] + capacity[row]
    return start


@njit(cache=True, nogil=True)
def room(size: I64s, added: I64s, bound: int) -> I64s:
    """Row offsets of a working set in which each row of `size` may grow by `added`, but not beyond the bound."""
    start = np.zeros(len(size) + 1, dtype=np.int64)
    for row in range(len(size)):
        start[row + 1] = start[row] + max(size[row], min(size[row] + added[row], bound))
    return start


@njit(cache=True, nogil=True)
def number_rows(ids: U64s) -> tuple[I64s, I64s]:
    """Where each distinct id stands first, in that order, and each element's row among them: (R,), (N,). Expected O(N)."""
    n = len(ids)
    size = 16
    while size < 2 * n:
        size *= 2
    mask = np.uint64(size - 1)
    slots = np.full(size, -1, dtype=np.int64)
    distinct = np.empty(n, dtype=np.uint64)
    first = np.empty(n, dtype=np.int64)
    rows = np.empty(n, dtype=np.int64)
    count = 0
    for i in range(n):
        key = ids[i]
        at = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20) & mask
        while slots[at] >= 0 and distinct[slots[at]] != key:
            at = (at + np.uint64(1)) & mask
        if slots[at] < 0:
            slots[at] = count
            distinct[count], first[count] = key, i
            count += 1
        rows[i] = slots[at]
    return first[:count].copy(), rows


@njit(cache=True, nogil=True)
def group(rows: I64s, num_rows: int) -> tuple[I64s, I64s]:
    """Stable counting sort: element order grouped by row, and where each row's group begins: (N,), (R + 1,)."""
    begin = np.zeros(num_rows + 1, dtype=np.int64)
    for row in rows:
        begin[row + 1] += 1
    for row in range(num_rows):
        begin[row + 1] += begin[row]
    at = begin[:-1].copy()
    order = np.empty(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        order[at[rows[i]]] = i
        at[rows[i]] += 1
    return order, begin
