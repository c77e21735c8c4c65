"""Reading and writing rows that lie in several partitions, as if they lay in one."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import njit

from storage.arrays import I64s, U64s
from storage.ragged import number_rows
from storage.state import Claim, State, Write

_MANY: Final = 256


def distinct_rows(ids: U64s) -> tuple[I64s, I64s]:
    """Where each distinct id stands first, and each element's row among these: (R,), (N,).

    Many ids ascend, for so they are read and written fastest; a few come as they are, since sorting them would cost more.
    """
    first, rows = number_rows(ids)
    if len(first) < _MANY:
        return first, rows
    order = np.argsort(ids[first])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[rows]


def read_rows(state: State, table: str, partitions: I64s, ids: U64s) -> list[bytes | None]:
    """Blobs of (partition, id) rows, in their order."""
    where = present(partitions)
    if len(where) == 1:
        return state.read(table, where[0], ids)
    return read_tables(state, [(table, partitions, ids)])[0]


def read_tables(state: State, asked: Sequence[tuple[str, I64s, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
    """The same of several tables, (table, partitions, ids) each, at once; `at` as in `State.read_many`."""
    parts: list[tuple[str, int, U64s]] = []
    places: list[tuple[int, list[int] | None]] = []
    for n, (table, partitions, ids) in enumerate(asked):
        where = present(partitions)
        if len(where) == 1:
            parts.append((table, where[0], ids))
            places.append((n, None))
            continue
        for partition in where:
            here = np.flatnonzero(partitions == partition)
            parts.append((table, partition, ids[here]))
            places.append((n, here.tolist()))
    found: list[list[bytes | None]] = [[None] * len(ids) for _, _, ids in asked]
    for (n, rows), blobs in zip(places, state.read_many(parts, at=at), strict=True):
        if rows is None:
            found[n] = blobs
            continue
        for row, blob in zip(rows, blobs, strict=True):
            found[n][row] = blob
    return found


def write_rows(table: str, partitions: I64s, ids: U64s, values: Sequence[bytes | memoryview | None]) -> list[Write]:
    """The writes of (partition, id) rows, one per partition."""
    where = present(partitions)
    if len(where) == 1:
        return [Write(table, where[0], ids, values)]
    writes = []
    for partition in where:
        here = np.flatnonzero(partitions == partition)
        writes.append(Write(table, partition, ids[here], [values[row] for row in here.tolist()]))
    return writes


def present(partitions: I64s) -> list[int]:
    """The partitions that occur, ascending. Most often it is one, and to see that takes no sorting."""
    if len(partitions) == 1 or (len(partitions) and _all_equal(partitions)):
        return [int(partitions[0])]
    return np.unique(partitions).tolist()  # type: ignore[no-any-return]  # numpy's tolist


@njit(cache=True, nogil=True)
def _all_equal(values: I64s) -> bool:
    for value in values:  # numba knows no generators here
        if value != values[0]:
            return False
    return True
