"""Hashing: events one by one and the same events as columns give the same ids, and cost the same names."""

from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.ids import COLLECTION, EVENT, ITEM, QUERY, USER, hash_id
from storage.names import Names
from storage.partitioned import read_tables
from storage.state_memory import MemoryState
from stream.events import Event
from stream.hashing import Hashed, hash_events
from stream.shape import Shape
from stream.wire import Events
from tests.stream.event_logs import columns

few = st.sampled_from(["a", "b", "c", "ü", "a much longer name than the others"])
some = st.none() | few
events = st.builds(
    Event, user_id=few, action=st.sampled_from(["view", "like", "hide"]), ts_ms=st.integers(0, 2**40), item_id=some, event_id=some,
    surface=st.none() | st.sampled_from(["home", "ad", "a fridge door"]), collection_id=some, source_item_id=some, query=some,
)  # fmt: skip


def hashed(of: Events, partitions: int, known: Sequence[tuple[int, str]] = ()) -> Hashed:
    """`known`: names met before, (kind, name) each."""
    names = Names(MemoryState())
    for kind, name in known:
        names.learn(kind, {name: hash_id(name, kind)})
    found = hash_events(of, lambda row: f"origin {row}", names, Shape(partitions=partitions))
    return found.named(read_tables(MemoryState(), found.asked()))


@given(
    st.lists(events, max_size=12), st.sampled_from([1, 5]), st.lists(st.tuples(st.sampled_from([ITEM, COLLECTION, QUERY, USER]), few))
)  # fmt: skip
def test_events_one_by_one_hash_as_columns_do(some_events: list[Event], partitions: int, known: list[tuple[int, str]]) -> None:
    rows, batch = hashed(some_events, partitions, known), hashed(columns(some_events), partitions, known)
    for name in ("users", "items", "stamps", "event_ids", "collections", "sources", "has_item", "weight"):
        one, other = getattr(rows.columns, name), getattr(batch.columns, name)
        assert one.dtype == other.dtype and (one == other).all(), name
    assert (rows.partitions == batch.partitions).all()
    assert rows.fresh == batch.fresh and rows.clashed == batch.clashed
    assert msgspec.json.encode(written(rows)) == msgspec.json.encode(written(batch))


def test_ids_are_those_of_the_names_and_a_missing_event_id_is_its_origins() -> None:
    found = hashed([Event(user_id="u", action="view", ts_ms=7, item_id="i"), Event(user_id="u", action="view", ts_ms=7, event_id="e")], 1)
    assert found.columns.users.tolist() == [hash_id("u", USER)] * 2
    assert found.columns.items.tolist() == [hash_id("i", ITEM), 0]
    assert found.columns.event_ids.tolist() == [hash_id("origin 0", EVENT), hash_id("e", EVENT)]
    assert found.columns.has_item.tolist() == [True, False] and np.all(found.columns.stamps >> np.uint64(16) == 7)


def written(found: Hashed) -> list[tuple[str, int, list[int], list[bytes]]]:
    return [(w.table, w.partition, w.ids.tolist(), [bytes(v or b"") for v in w.values]) for w in found.writes]
