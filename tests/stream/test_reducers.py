"""Replay equals live, late is not lost, everything is bounded: invariants 3, 4 and 5 of the design, byte for byte.

`oracle.py` says what must come out; here streams, large and small, are held against it.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.counts import Counts
from storage.decay import WEIGHT_MAX
from storage.histories import RING, Histories, decode
from storage.ids import COLLECTION, ITEM, USER, hash_id
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.neighbours import CO_ENGAGED, IN_COLLECTION, SHOWN_NEXT_TO, Neighbours
from storage.state import DIGESTED, HISTORIES, NEIGHBOURS, SEEN, State, Write
from storage.state_lmdb import LmdbState
from storage.state_memory import MemoryState
from stream.events import Event
from stream.hashing import hash_events
from stream.ingest import EVENTS, Ingest
from stream.reducers import Columns, Edges, reduce_counts, reduce_neighbours, reduce_users
from stream.replay import digest
from stream.shape import ACTIONS, DAY_MS, Action, Shape
from tests.stream.event_logs import APPEND_MS, SMALL, THREE, expected, fill, ingest_all, make_messages, records_of, stored, totals, wanted
from tests.stream.oracle import Oracle

TINY = Shape(history_max=4, seen_max=3, neighbours_max=2, edge_window=2, edge_half_life_ms=4000, count_half_life_ms=1000)
DEEP = Shape(edge_half_life_ms=4000, count_half_life_ms=1000)
KEEN = replace(TINY, actions={**ACTIONS, "search": Action(9, 2, True), "hide": Action(8, 7, True)})
SLOW = Shape(edge_half_life_ms=3650 * DAY_MS)
Apply = Callable[..., State]


@pytest.fixture(scope="module")
def apply(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apply]:
    """Applies events, in batches of these sizes over and over, to a new state; the log stays empty, only its topic is asked for."""
    log = LmdbLog(tmp_path_factory.mktemp("log"), log_bytes_max=1 << 24)

    def applied(events: Sequence[Event], shape: Shape, sizes: Sequence[int] = (4096,)) -> State:
        state = MemoryState()
        ingest = Ingest(state, log, shape, names=Names(state))
        ingest.claim()
        records, turn = list(records_of(events)), 0
        while records:
            size = sizes[turn % len(sizes)]
            ingest.apply(records[:size], now_ms=APPEND_MS)
            records, turn = records[size:], turn + 1
        return state

    yield applied
    log.close()


def view(item: str, ts_ms: int, user: str = "u", **fields: object) -> Event:
    return msgspec.structs.replace(Event(user_id=user, action="view", item_id=item, ts_ms=ts_ms), **fields)


def told(events: Sequence[Event], shape: Shape) -> Oracle:
    oracle = Oracle(shape)
    for n, event in enumerate(events):
        oracle.apply(event, f"{EVENTS}:0:0:{n}:0")
    return oracle


@pytest.mark.parametrize(
    ("shape", "items"), [(SMALL, 150), (Shape(), 1500), (THREE, 150)], ids=["small bounds", "default bounds", "3 partitions"]
)
def test_replay_equals_live_at_any_batch_size_and_equals_the_oracle(shape: Shape, items: int, tmp_path: Path) -> None:
    messages = make_messages(random.Random(8), shape, count=500, items=items)
    with LmdbLog(tmp_path / "log", partitions=shape.partitions, log_bytes_max=1 << 28) as log:
        oracle = expected(shape, messages, fill(log, messages))
        assert oracle.trims and sum(oracle.duplicates.values()) and any(len(p.entries) == shape.history_max for p in oracle.people.values())
        live = LmdbState(tmp_path / "state", boot_id="this boot")
        states: list[State] = [live, *(MemoryState() for _ in range(3))]
        for state, batch in zip(states, (64, 1, 17, 4096), strict=True):
            ingest = ingest_all(log, state, shape, batch=batch)
            assert stored(state, shape.partitions) == wanted(oracle), f"batches of {batch}"
            refused = sum(message.refused for message in messages)
            assert totals(ingest) == {"accepted": oracle.accepted.total(), "duplicates": oracle.duplicates.total(), "dead": refused}
        assert len({tuple(digest(state, p) for p in range(shape.partitions)) for state in states}) == 1
        live.close()


names = st.sampled_from(["a", "b", "c", "d", "e"])
small_events = st.builds(
    Event,
    user_id=st.sampled_from(["u", "v"]),
    action=st.sampled_from(["view", "save", "purchase", "hide", "search"]),
    ts_ms=st.sampled_from([0, 1, 999, 1000, 3999, 4000, 4001, 8000, 70_000, 10**9]) | st.integers(0, 20_000),
    item_id=names,
    query=st.just("q"),
    event_id=st.none() | st.sampled_from([f"e{n}" for n in range(12)]),
    collection_id=st.none() | st.sampled_from(["board", "a"]),
    source_item_id=st.none() | names,
    surface=st.none() | st.sampled_from(["home", "ad", "fridge"]),
) | st.builds(Event, user_id=st.just("u"), action=st.just("search"), ts_ms=st.integers(0, 9000), query=st.sampled_from(["", "a"]))
batches = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@settings(max_examples=300)
@given(events=st.lists(small_events, max_size=30), sizes=batches, shape=st.sampled_from([TINY, DEEP, replace(TINY, edge_window=16), KEEN]))
def test_replay_equals_live_for_any_small_stream(apply: Apply, events: list[Event], sizes: list[int], shape: Shape) -> None:
    state = apply(events, shape, sizes)
    assert stored(state) == wanted(told(events, shape))
    assert digest(state, 0) == digest(apply(events, shape, [1]), 0)


def test_replay_equals_live_when_one_byte_differs_the_digest_does(apply: Apply) -> None:
    events = [view(f"i{n % 7}", n * 500, collection_id="c", event_id=None if n % 2 else f"e{n}") for n in range(12)]
    state = apply(events, TINY)
    before = digest(state, 0)
    for table in DIGESTED:
        rows = list(state.scan(table, 0))
        assert rows
        for node, blob in rows:
            for at in range(len(blob)):
                spoilt = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
                state.commit([], [Write(table, 0, np.array([node], dtype=np.uint64), [spoilt])])
                assert digest(state, 0) != before, (table, node, at)
            state.commit([], [Write(table, 0, np.array([node], dtype=np.uint64), [None])])
            assert digest(state, 0) != before
            state.commit([], [Write(table, 0, np.array([node], dtype=np.uint64), [blob])])
    assert digest(state, 0) == before


def test_replay_equals_live_when_weights_saturate() -> None:
    one, no = np.ones(1, dtype=np.uint64), np.zeros(1, dtype=np.uint64)
    columns = Columns(one, one, no, one, no, no, np.ones(1, dtype=np.bool_), np.array([1000], dtype=np.int64))
    table = np.array([[5, 5, WEIGHT_MAX - 7, 0]], dtype=np.int64)
    reduce_counts(table, np.zeros(1, dtype=np.int64), columns, np.ones(1, dtype=np.bool_), DEEP)
    assert table.tolist() == [[6, 6, WEIGHT_MAX, 0]]
    nothing, stored = np.zeros(1, dtype=np.int64), np.array([0, 1, WEIGHT_MAX - 7], dtype=np.uint64).tobytes()
    edges = Edges(one, one, one, np.array([1000], dtype=np.int64), nothing, nothing)
    (blob,) = reduce_neighbours(nothing, edges, [stored], DEEP)
    assert np.frombuffer(blob, dtype=np.uint64).tolist() == [0, 1, WEIGHT_MAX]


def test_every_node_is_an_item_but_the_collections_that_edges_lead_back_from() -> None:
    events = [view("i", 1), view("j", 2, collection_id="c", source_item_id="k"), view("c", 3, collection_id="c")]
    hashed = hash_events(events, str, Names(MemoryState()), TINY)
    edges = reduce_users(np.zeros(3, dtype=np.int64), hashed.columns, [None], [None], TINY).edges
    found = dict.fromkeys(zip(edges.nodes.tolist(), edges.of_items().tolist(), strict=True))
    assert sorted(found) == sorted([*((hash_id(name, ITEM), True) for name in "ijkc"), (hash_id("c", COLLECTION), False)])


distinct_times = st.lists(
    st.tuples(names, st.integers(0, 30_000), st.sampled_from(["view", "hide"])), max_size=12, unique_by=lambda e: e[1]
)


@settings(max_examples=150)
@given(rows=distinct_times, order=st.randoms(use_true_random=False), shape=st.sampled_from([TINY, DEEP]))
def test_late_is_not_lost_arrival_does_not_matter(
    apply: Apply, rows: list[tuple[str, int, str]], order: random.Random, shape: Shape
) -> None:
    events = [view(item, ts_ms, action=action, event_id=f"e{n}") for n, (item, ts_ms, action) in enumerate(rows)]
    late = order.sample(events, len(events))
    one, other = apply(events, shape), apply(late, shape)
    assert stored(one)["seen/0"] == stored(other)["seen/0"]
    for user, blob in one.scan(HISTORIES, 0):
        assert entries(blob) == entries(dict(other.scan(HISTORIES, 0))[user])
    items = np.array([hash_id(item, ITEM) for item in "abcde"], dtype=np.uint64)
    counts = [Counts(state, 1, shape.count_half_life_ms).read(items, as_of_ms=30_000) for state in (one, other)]
    assert np.array_equal(counts[0].events, counts[1].events) and np.array_equal(counts[0].positives, counts[1].positives)
    tables = [{item: np.frombuffer(blob, dtype=np.int64) for item, blob in state.scan("counts", 0)} for state in (one, other)]
    for item, row in tables[0].items():
        assert row[3] == tables[1][item][3], "the landmark is the newest entry's"
        assert abs(row[2] - tables[1][item][2]) <= row[0], "within one unit for each event"


def entries(blob: bytes) -> list[tuple[int, ...]]:
    history = decode(blob)
    return list(zip(*(column.tolist() for column in (history.items, history.ts_ms, history.actions, history.surfaces)), strict=True))


@given(st.permutations([(item, ts_ms) for item in "abc" for ts_ms in (5, 5, 7)]))
def test_late_is_not_lost_equal_times_stay_in_log_order(apply: Apply, rows: list[tuple[str, int]]) -> None:
    state = apply([view(item, ts_ms) for item, ts_ms in rows], DEEP, [2])
    history = Histories(state).read(hash_id("u", USER), 0)
    arrived = [hash_id(item, ITEM) for item, ts_ms in sorted(rows, key=lambda row: row[1])]
    assert history.items.tolist() == arrived and history.ts_ms.tolist() == [5] * 6 + [7] * 3


def test_late_is_not_lost_edges_go_to_the_entries_around_it_in_time(apply: Apply) -> None:
    """a at 1, c at 3, then b at 2, which is late: a -> b and b -> c at distance 1, and a -> c stays as it was."""
    state = apply([view("a", 1000), view("c", 3000), view("b", 2000, action="save")], SLOW)
    assert shares(state, CO_ENGAGED, "a") == {"c": 60, "b": 180}
    assert shares(state, CO_ENGAGED, "b") == {"a": 90, "c": 180}
    assert shares(state, CO_ENGAGED, "c") == {"a": 30, "b": 90}


def shares(state: State, relation: int, name: str, kind: int = ITEM) -> dict[str, int]:
    """A node's neighbours with their weights, under half-lives so long that nothing has decayed."""
    node = np.array([hash_id(name, kind)], dtype=np.uint64)
    ((nodes, weights),) = Neighbours(state, 1, SLOW.edge_half_life_ms).read(relation, node, as_of_ms=0)
    known = {hash_id(other, k): other for other in ("a", "b", "c", "d", "board") for k in (ITEM, COLLECTION)}
    return {known[other]: round(weight) for other, weight in zip(nodes.tolist(), weights.tolist(), strict=True)}


def test_late_is_not_lost_the_ring_knows_the_last_128_events(apply: Apply) -> None:
    events = [view("a", n, event_id=f"e{n}") for n in range(RING + 1)]
    again = [view("a", 500, event_id="e1"), view("a", 500, event_id="e0"), view("b", 500, user="v", event_id="e0")]
    state = apply([*events, *again], DEEP)
    counts = Counts(state, 1, 1000).read(np.array([hash_id("a", ITEM), hash_id("b", ITEM)], dtype=np.uint64), as_of_ms=0)
    assert counts.events.tolist() == [RING + 2, 1], "e1 is among the last 128 of u, e0 is not, and v's events are its own"


def test_a_duplicate_changes_nothing_whatever_it_says(apply: Apply) -> None:
    events = [view("a", 5, event_id="e"), view("b", 6, event_id="f")]
    lying = [view("c", 9000, event_id="e", collection_id="board"), view("d", 1, event_id="f", action="save")]
    assert stored(apply([*events, *lying], DEEP, [1])) == stored(apply(events, DEEP)) == stored(apply([*events, *lying], DEEP))


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50_000)), min_size=30, max_size=120))
def test_everything_is_bounded(apply: Apply, rows: list[tuple[int, int]]) -> None:
    state = apply([view(f"i{item}", ts_ms, event_id=f"e{n}") for n, (item, ts_ms) in enumerate(rows)], TINY, [7])
    for _, blob in state.scan(HISTORIES, 0):
        assert len(decode(blob)) <= TINY.history_max and len(blob) <= 8 * (1 + 2 * TINY.history_max + RING)
    assert all(len(blob) <= 16 * TINY.seen_max for _, blob in state.scan(SEEN, 0))
    assert all(len(blob) < 8 + 16 * 2 * TINY.neighbours_max for _, blob in state.scan(NEIGHBOURS, 0))


def test_everything_is_bounded_a_full_history_forgets_its_oldest_and_ignores_what_is_older(apply: Apply) -> None:
    state = apply([view(f"i{n}", 10 * n) for n in range(1, 6)] + [view("older", 1), view("late", 25)], TINY)
    assert Histories(state).read(hash_id("u", USER), 0).items.tolist() == [hash_id(f"{n}", ITEM) for n in ("late", "i3", "i4", "i5")]


def test_everything_is_bounded_a_full_seen_set_forgets_the_longest_ago_ties_by_larger_id(apply: Apply) -> None:
    low, middle, high, top = sorted("abcd", key=lambda name: hash_id(name, ITEM))
    rows = [view(high, 5), view(low, 5), view(middle, 5)]
    for order in itertools.permutations(rows):
        assert seen(apply([*order, view(top, 6)], TINY)) == {low, middle, top}
        assert seen(apply([*order, view(top, 5)], TINY)) == {low, middle, high}
        assert seen(apply([*order, view(top, 6), view(high, 7)], TINY)) == {low, high, top}


def seen(state: State) -> set[str]:
    ids = Histories(state).seen(hash_id("u", USER), 0).tolist()
    return {name for name in "abcd" if hash_id(name, ITEM) in ids}


def test_everything_is_bounded_a_list_at_twice_its_bound_keeps_the_heaviest_ties_by_smaller_id(apply: Apply) -> None:
    """Three users link a to others by equal weights, one to c by more: at the fourth neighbour the list is cut to two."""
    firsts = [event for n, other in enumerate("bde") for event in (view("a", 0, user=f"u{n}"), view(other, 0, user=f"u{n}"))]
    shape = replace(TINY, edge_window=1)
    heavy = [view("a", 0, user="v"), view("c", 0, user="v", action="save")]
    assert set(shares_by_id(apply(firsts, shape))) == {hash_id(name, ITEM) for name in "bde"}
    smallest = min(hash_id(name, ITEM) for name in "bde")
    assert shares_by_id(apply(firsts + heavy, shape)) == [hash_id("c", ITEM), smallest]


def shares_by_id(state: State) -> list[int]:
    ((nodes, _),) = Neighbours(state, 1, TINY.edge_half_life_ms).read(
        CO_ENGAGED, np.array([hash_id("a", ITEM)], dtype=np.uint64), as_of_ms=0
    )
    return [int(node) for node in nodes]


def test_edges_weigh_by_distance_and_only_likings_of_other_items_make_them(apply: Apply) -> None:
    """c meets a at distances 3 and 4: 60 // 3 and 60 // 4 one way, half of each the other."""
    events = [
        view("a", 0),
        view("a", 0),
        view("b", 0, action="hide"),
        Event(user_id="u", action="search", query="a", ts_ms=0),
        view("c", 0),
    ]
    state = apply(events, SLOW)
    assert shares(state, CO_ENGAGED, "c") == {"a": 20 // 2 + 15 // 2}
    assert shares(state, CO_ENGAGED, "a") == {"c": 20 + 15}
    assert shares(state, CO_ENGAGED, "b") == {}


def test_collections_and_sources_make_their_own_lists(apply: Apply) -> None:
    state = apply(
        [view("a", 0, collection_id="board", source_item_id="b", action="save"), view("c", 0, user="v", source_item_id="c")], SLOW
    )
    assert shares(state, IN_COLLECTION, "a") == {"board": 180} and shares(state, IN_COLLECTION, "board", COLLECTION) == {"a": 90}
    assert shares(state, SHOWN_NEXT_TO, "b") == {"a": 180} and shares(state, SHOWN_NEXT_TO, "a") == {"b": 90}
    assert shares(state, SHOWN_NEXT_TO, "c") == {} and shares(state, CO_ENGAGED, "a") == {}


def test_time_rewrites_nothing_and_years_of_silence_age_only_what_they_touch(apply: Apply) -> None:
    early = [view("a", 0), view("b", 0), view("c", 0, user="v"), view("d", 0, user="v")]
    before, after = apply(early, DEEP), apply([*early, view("b", 10**11)], DEEP)
    changed = {
        key for key in stored(before)["neighbours/0"] if stored(before)["neighbours/0"][key] != stored(after)["neighbours/0"].get(key)
    }
    assert changed == {hash_id("a", ITEM), hash_id("b", ITEM)}
    assert {hash_id("b", ITEM)} == {k for k, v in stored(before)["counts/0"].items() if stored(after)["counts/0"][k] != v}
