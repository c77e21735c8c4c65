"""Neighbour lists as stored and as read: heaviest first, by relation, at home in the node's partition."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import U64s
from storage.decay import SCALE_BITS
from storage.neighbours import (
    CO_ENGAGED,
    IN_COLLECTION,
    RELATIONS,
    SALTS,
    SHOWN_NEXT_TO,
    Neighbours,
    load_neighbours,
    node_partition,
    store_neighbours,
)
from storage.ragged import cut, words
from storage.state import NEIGHBOURS, Write
from storage.state_memory import MemoryState

ONE = 1 << SCALE_BITS
HALF_LIFE_MS = 1000
u64s = st.integers(0, (1 << 64) - 1)
lists = st.none() | st.tuples(st.integers(0, 1 << 40), st.lists(st.tuples(u64s, st.integers(0, 1 << 62)), max_size=6))


def blob_of(landmark: int, pairs: list[tuple[int, int]]) -> bytes:
    return struct.pack("<q", landmark) + b"".join(struct.pack("<2Q", *pair) for pair in pairs)


def ids(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


@given(st.lists(lists, max_size=6), st.integers(0, 9))
def test_lists_are_stored_as_they_were_loaded(rows: list[tuple[int, list[tuple[int, int]]] | None], added: int) -> None:
    blobs = [None if row is None else blob_of(*row) for row in rows]
    held = load_neighbours(*words(blobs), np.full(len(blobs), added, dtype=np.int64), 4)
    assert held.size.tolist() == [len(row[1]) if row else 0 for row in rows]
    assert [bytes(blob) for blob in cut(*store_neighbours(held))] == [blob or b"\0" * 8 for blob in blobs]
    assert np.diff(held.start).tolist() == [min(size + added, 8) for size in held.size.tolist()], "up to twice the bound"


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_list_is_read_heaviest_first_ties_by_id_decayed_to_the_moment(partitions: int) -> None:
    state, node = MemoryState(), 10
    (home,) = node_partition(ids(node), partitions).tolist()
    blob = blob_of(5, [(30, ONE), (20, 4 * ONE), (25, ONE), (40, 0)])
    state.commit([], [Write(NEIGHBOURS, home, ids(node), [blob])])
    neighbours = Neighbours(state, partitions, HALF_LIFE_MS)
    (unknown, _), (nodes, weights) = neighbours.read(CO_ENGAGED, ids(11, node), as_of_ms=5 * HALF_LIFE_MS)
    assert nodes.tolist() == [20, 25, 30, 40] and weights.tolist() == [4, 1, 1, 0] and len(unknown) == 0
    ((_, later),) = neighbours.read(CO_ENGAGED, ids(node), as_of_ms=8 * HALF_LIFE_MS)
    assert later.tolist() == [0.5, 0.125, 0.125, 0]
    ((_, before),) = neighbours.read(CO_ENGAGED, ids(node), as_of_ms=4 * HALF_LIFE_MS)
    assert before.tolist() == [8, 2, 2, 0]


def test_relations_of_one_node_lie_apart_and_together() -> None:
    state, nodes = MemoryState(), ids(*range(1, 40))
    for relation in RELATIONS.values():
        for node in nodes.tolist():
            (home,) = node_partition(ids(node), 3).tolist()
            state.commit([], [Write(NEIGHBOURS, home, ids(node) ^ SALTS[relation], [blob_of(0, [(100 * relation + node, ONE)])])])
    neighbours = Neighbours(state, 3, HALF_LIFE_MS)
    for relation in (CO_ENGAGED, IN_COLLECTION, SHOWN_NEXT_TO):
        found = neighbours.read(relation, nodes, as_of_ms=0)
        assert [targets.tolist() for targets, _ in found] == [[100 * relation + node] for node in nodes.tolist()]
    assert neighbours.read(CO_ENGAGED, ids(), as_of_ms=0) == []
    assert set(RELATIONS) == {"co_engaged", "in_collection", "shown_next_to"} and len(set(SALTS.tolist())) == 3
