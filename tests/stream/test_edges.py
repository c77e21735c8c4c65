"""Edges on their way: cut by partition and size between events, decoded as they were, and never a crash on bytes that are none."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.log import VALUE_BYTES_MAX
from storage.neighbours import CO_ENGAGED, IN_COLLECTION, SALTS, SHOWN_NEXT_TO, node_partition
from stream import edges as module
from stream.edges import Made, Parcel, Upstream, decode_edges, place, split
from stream.reducers import Edges

UPSTREAM = Upstream(partition=2, incarnation=1)


def made(pairs: list[tuple[int, int, int]]) -> Edges:
    """(event, node, target) there and back, relations in turn."""
    rows = [(event, a, b, n % 3) for n, (event, a, b) in enumerate(sorted(pairs)) for a, b in ((a, b), (b, a))]
    event, nodes, targets, relation = (np.array(column) for column in zip(*rows, strict=True))
    unsigned = nodes.astype(np.uint64)
    amounts, times = np.arange(len(rows), dtype=np.int64) + 1, np.arange(len(rows), dtype=np.int64) * 1000 - 5
    return Edges(unsigned, unsigned ^ SALTS[relation], targets.astype(np.uint64), amounts, times, event.astype(np.int64))


def sent(edges: Edges, partitions: int) -> dict[int, list[Parcel]]:
    at = place(np.arange(1000, dtype=np.int64) + 70, np.zeros(1000, np.int64))
    parcels: dict[int, list[Parcel]] = {}
    for turn in split([Made(UPSTREAM, edges, at)], partitions):
        assert len({entry.partition for entry in turn}) == len(turn), "one message a partition and turn"
        for entry in turn:
            assert len(entry.value) <= VALUE_BYTES_MAX
            (parcel,) = decode_edges(entry.value)
            parcels.setdefault(entry.partition, []).append(parcel)
    return parcels


pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2**63), st.integers(1, 2**63)), min_size=1, max_size=60)


@given(pairs, st.integers(1, 5), st.integers(2, 30))
def test_edges_arrive_as_they_were_each_at_its_nodes_partition(some: list[tuple[int, int, int]], partitions: int, at_once: int) -> None:
    edges = made(some)
    most = max(np.bincount(edges.events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EDGES_AT_ONCE", max(at_once, int(most)))
        parcels = sent(edges, partitions)
    for partition, found in parcels.items():
        here = edges.take(node_partition(edges.nodes, partitions) == partition)
        for name in ("nodes", "list_ids", "targets", "amounts", "ts_ms"):
            assert np.array_equal(np.concatenate([getattr(parcel.edges, name) for parcel in found]), getattr(here, name)), name
        at = np.concatenate([parcel.at for parcel in found])
        assert np.array_equal(at, (here.events + 70).astype(np.uint64) << np.uint64(16))
        ends = [(int(one.at[-1]), int(other.at[0])) for one, other in itertools.pairwise(found)]
        assert all(end < begin for end, begin in ends), "an event's edges are never cut"
        assert all(parcel.upstream == UPSTREAM for parcel in found)
    assert sum(len(parcel.edges) for found in parcels.values() for parcel in found) == len(edges)


@given(st.lists(pairs, min_size=1, max_size=4), st.integers(1, 3), st.booleans())
def test_commits_go_in_the_same_messages_where_they_are_small_and_arrive_as_they_were(
    commits: list[list[tuple[int, int, int]]], partitions: int, small: bool
) -> None:
    at = place(np.arange(1000, dtype=np.int64), np.zeros(1000, np.int64))
    made_of = [Made(Upstream(n, n % 2), made(some), at) for n, some in enumerate(commits)]
    alone = [decode_edges(entry.value) for one in made_of for turn in split([one], partitions) for entry in turn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EDGES_AT_ONCE", sum(len(one.edges) for one in made_of) if small else max(len(one.edges) for one in made_of))
        rounds = list(split(made_of, partitions))
        together = [decode_edges(entry.value) for turn in rounds for entry in turn]
    if small:
        (turn,) = rounds
        assert len({entry.partition for entry in turn}) == len(turn), "one message a partition"

    def rows(found: list[list[Parcel]]) -> list[tuple[object, ...]]:
        parcels = [parcel for parcels in found for parcel in parcels]
        names = ("nodes", "list_ids", "targets", "amounts", "ts_ms")
        return sorted(
            (
                parcel.upstream,
                int(node_partition(parcel.edges.nodes, partitions)[0]),
                parcel.at.tolist(),
                parcel.items.tolist(),
                *(getattr(parcel.edges, name).tolist() for name in names),
            )
            for parcel in parcels
        )

    assert rows(together) == rows(alone)


def test_no_commits_are_no_messages() -> None:
    assert list(split([], 3)) == []


def test_a_collection_is_no_item_and_everything_else_is() -> None:
    relations = np.array([CO_ENGAGED, CO_ENGAGED, IN_COLLECTION, IN_COLLECTION, SHOWN_NEXT_TO, SHOWN_NEXT_TO])
    nodes = np.array([1, 2, 1, 9, 3, 1], dtype=np.uint64)
    nothing = np.zeros(6, dtype=np.int64)
    (parcel,) = sent(Edges(nodes, nodes ^ SALTS[relations], nodes[::-1].copy(), nothing + 1, nothing, nothing), 1)[0]
    assert parcel.items.tolist() == [True, True, True, False, True, True]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_edges_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"edges|bytes|relation"):
        decode_edges(body)


@given(st.data())
def test_an_altered_message_is_refused_or_read_never_more(data: st.DataObject) -> None:
    places = np.arange(2, dtype=np.uint64)
    commits = [Made(Upstream(n, 1), made([(0, 5, 6), (1, 7, 8)]), places) for n in range(2)]
    (message,) = [entry for turn in split(commits, 1) for entry in turn]
    body = bytearray(message.value)
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert 0 < sum(len(parcel.edges) for parcel in decode_edges(bytes(body))) <= module.EDGES_AT_ONCE
    except ValueError as error:
        assert str(error)
