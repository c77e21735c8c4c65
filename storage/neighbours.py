"""Neighbours: a node's weighted, decayed neighbours by relation, at most twice the bound between trims.

A blob is the landmark (whole half-lives) and 16 bytes a neighbour (node; weight), in order of arrival.

    Neighbours(state, partitions, half_life_ms).read(CO_ENGAGED, nodes, as_of_ms=...)
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from storage import decay, ragged
from storage.arrays import F64s, I64s, U64s
from storage.partitioned import read_rows
from storage.state import NEIGHBOURS, State

CO_ENGAGED: Final = 0
IN_COLLECTION: Final = 1
SHOWN_NEXT_TO: Final = 2
RELATIONS: Final = {"co_engaged": CO_ENGAGED, "in_collection": IN_COLLECTION, "shown_next_to": SHOWN_NEXT_TO}
SALTS: Final = np.array([0, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
"""A list is stored under `node ^ SALTS[relation]`."""
NEIGHBOURS_MAX: Final = 1024
"""No shape may bound a list higher."""


def node_partition(nodes: U64s, partitions: int) -> I64s:
    """The partition that keeps what is known of a node: (N,)."""
    return (nodes % np.uint64(partitions)).astype(np.int64) if partitions > 1 else np.zeros(len(nodes), dtype=np.int64)


class NeighbourSet(NamedTuple):
    """The lists a batch touches, with room for what it adds: row r owns `start[r]:start[r + 1]`."""

    start: I64s
    nodes: U64s
    weights: I64s
    size: I64s
    landmark: I64s


class Neighbours:
    """Reads the lists; a read after a commit sees it."""

    def __init__(self, state: State, partitions: int, half_life_ms: int) -> None:
        self._state = state
        self._partitions = partitions
        self._half_life_ms = half_life_ms

    def read(self, relation: int, nodes: U64s, *, as_of_ms: int) -> list[tuple[U64s, F64s]]:
        """For each node its neighbours, heaviest first (ties by id), with weights decayed to `as_of_ms`."""
        partition_of = node_partition(nodes, self._partitions)
        found: list[tuple[U64s, F64s]] = [(nodes[:0], np.empty(0))] * len(nodes)
        for partition in np.unique(partition_of).tolist():
            rows = np.flatnonzero(partition_of == partition)
            blobs = self._state.read(NEIGHBOURS, partition, nodes[rows] ^ SALTS[relation])
            for row, blob in zip(rows.tolist(), blobs, strict=True):
                if blob is not None:
                    found[row] = self._decode(blob, as_of_ms)
        return found

    def links(self, relation: int, nodes: U64s, *, as_of_ms: int) -> tuple[U64s, F64s, I64s]:
        """The same lists end to end in no order, for who sums them: neighbours, weights, the place of each one's node; (E,) each."""
        blobs = read_rows(self._state, NEIGHBOURS, node_partition(nodes, self._partitions), nodes ^ SALTS[relation])
        found: tuple[U64s, F64s, I64s] = _laid_out(*ragged.words(blobs), as_of_ms / self._half_life_ms)
        return found

    def _decode(self, blob: bytes, as_of_ms: int) -> tuple[U64s, F64s]:
        flat = np.frombuffer(blob, dtype=np.uint64)
        nodes, weights = flat[1::2], flat[2::2]
        order = np.lexsort((nodes, -weights.astype(np.int64)))
        return nodes[order], decay.at(weights[order], int(flat[:1].view(np.int64)[0]), as_of_ms, self._half_life_ms)


@njit(cache=True, nogil=True)
def load_neighbours(flat: U64s, begin: I64s, added: I64s, neighbours_max: int) -> NeighbourSet:
    """Unpack stored lists, end to end as `ragged.words` has them, with room for `added[r]` more, never beyond twice the bound."""
    size = (begin[1:] - begin[:-1]) // 2  # the head word is dropped by the division
    start = ragged.room(size, added, 2 * neighbours_max)
    nodes, weights, landmark = np.empty(start[-1], np.uint64), np.empty(start[-1], np.int64), np.zeros(len(size), np.int64)
    for row in range(len(size)):
        if begin[row + 1] > begin[row]:
            landmark[row] = np.int64(flat[begin[row]])
        for i in range(size[row]):
            nodes[start[row] + i] = flat[begin[row] + 1 + 2 * i]
            weights[start[row] + i] = np.int64(flat[begin[row] + 2 + 2 * i])
    return NeighbourSet(start, nodes, weights, size, landmark)


@njit(cache=True, nogil=True)
def store_neighbours(held: NeighbourSet) -> tuple[U64s, I64s]:
    """The working set end to end, and where each row begins: what `ragged.cut` makes blobs of."""
    begin = ragged.starts(1 + 2 * held.size)
    flat = np.empty(begin[-1], dtype=np.uint64)
    for row in range(len(held.size)):
        flat[begin[row]] = np.uint64(held.landmark[row])
        for i in range(held.size[row]):
            flat[begin[row] + 1 + 2 * i] = held.nodes[held.start[row] + i]
            flat[begin[row] + 2 + 2 * i] = np.uint64(held.weights[held.start[row] + i])
    return flat, begin


@njit(cache=True, nogil=True)
def _laid_out(flat: U64s, begin: I64s, now: float) -> tuple[U64s, F64s, I64s]:
    """Stored lists end to end: neighbours, weights as of `now` (in half-lives), the place of each one's list."""
    count = 0
    for place in range(len(begin) - 1):
        count += max(0, begin[place + 1] - begin[place] - 1) // 2
    nodes, weights, places = np.empty(count, dtype=np.uint64), np.empty(count), np.empty(count, dtype=np.int64)
    n = 0
    for place in range(len(begin) - 1):
        size = max(0, begin[place + 1] - begin[place] - 1) // 2
        if size == 0:
            continue
        age = min(max(now - np.int64(flat[begin[place]]), -decay.AGE_MAX), decay.AGE_MAX)
        scale = 2.0 ** (-age - decay.SCALE_BITS)
        entries = flat[begin[place] + 1 : begin[place + 1]]
        for i in range(size):
            nodes[n + i], weights[n + i], places[n + i] = entries[2 * i], np.float64(np.int64(entries[2 * i + 1])) * scale, place
        n += size
    return nodes, weights, places
