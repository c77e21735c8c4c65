"""The live ring of sessions against the bench's index of the same sessions, and a plain list of what it should hold."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rows import RowIndex
from serving.sessions import NEIGHBOURS_MAX, PAUSE_MS, SESSIONS_OF_ITEM_MAX, Sessions
from storage.arrays import F64s, U64s
from storage.catalogue import Catalogue
from storage.ids import ITEM, hash_id
from trainers.sequence_counts import ragged
from trainers.session_knn import SessionKnn

ITEMS = 6
SESSION = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7)
LIKING = st.tuples(st.integers(1, 4), st.integers(0, ITEMS - 1), st.integers(0, 3))
PREFIX = st.lists(st.integers(0, ITEMS - 1), max_size=5)


def index_of(items: int) -> tuple[RowIndex, U64s]:
    """Rows 0.. of a catalogue, and their ids."""
    catalogue = Catalogue()
    for n in range(items):
        catalogue.add(hash_id(f"i{n}", ITEM), f"i{n}")
    return RowIndex(catalogue), catalogue.ids


def bench(sessions: list[list[int]], prefix: list[int], *, items: int = ITEMS) -> F64s:
    past = SessionKnn(items, sessions_of_item_max=SESSIONS_OF_ITEM_MAX, neighbours_max=NEIGHBOURS_MAX)
    for session in sessions:
        past.learn(np.array(session, dtype=np.int64))
    scores: F64s = past.scores(ragged([np.array(prefix, dtype=np.int64)]))[0]
    return scores


def votes(live: Sessions, prefix: list[int], items: int = ITEMS) -> F64s:
    return live.votes(np.array(prefix, dtype=np.int64), items)


@dataclass
class Plain:
    """What the ring should hold: (user, rows, last time) of the newest sessions."""

    sessions_max: int
    items_max: int

    def __post_init__(self) -> None:
        self.held: list[tuple[int, list[int], list[int]]] = []

    def take(self, user: int, row: int, ts_ms: int) -> None:
        own = [session for session in self.held if session[0] == user][-1:]
        if own and abs(ts_ms - own[0][2][0]) <= PAUSE_MS and len(own[0][1]) < self.items_max:
            own[0][1].append(row)
            own[0][2][0] = ts_ms
        else:
            self.held = [*self.held, (user, [row], [ts_ms])][-self.sessions_max :]


def took(live: Sessions, ids: U64s, likings: list[tuple[int, int, int]]) -> None:
    users, rows, ts_ms = (np.array(column, dtype=np.int64) for column in zip(*likings, strict=True))
    live.take(users.astype(np.uint64), ids[rows], ts_ms)


@given(st.lists(SESSION, min_size=1, max_size=15), PREFIX)
def test_votes_are_those_of_the_benchs_index_over_the_same_sessions(sessions: list[list[int]], prefix: list[int]) -> None:
    index, ids = index_of(ITEMS)
    live = Sessions(index, sessions_max=16, items_max=8)
    for user, session in enumerate(sessions, start=1):
        took(live, ids, [(user, row, 1000 * n) for n, row in enumerate(session)])
    assert len(live) == len(sessions)
    assert votes(live, prefix).tolist() == pytest.approx(bench(sessions, prefix).tolist())


@given(st.lists(LIKING, min_size=1, max_size=60), PREFIX, st.integers(1, 20))
def test_interleaved_users_pauses_and_the_rings_edge(likings: list[tuple[int, int, int]], prefix: list[int], batch: int) -> None:
    index, ids = index_of(ITEMS)
    live, plain = Sessions(index, sessions_max=4, items_max=3), Plain(4, 3)
    ts_ms, stream = 0, []
    for user, row, pause in likings:
        ts_ms += (pause * PAUSE_MS) // 2
        stream.append((user, row, ts_ms))
        plain.take(*stream[-1])
    for begin in range(0, len(stream), batch):
        took(live, ids, stream[begin : begin + batch])
    expected = bench([rows for _, rows, _ in plain.held], prefix)
    assert votes(live, prefix).tolist() == pytest.approx(expected.tolist())


def test_a_long_stream_of_many_users_stays_what_a_plain_list_says() -> None:
    index, ids = index_of(ITEMS)
    live, plain, random = Sessions(index, sessions_max=8, items_max=4), Plain(8, 4), np.random.default_rng(3)
    for n in range(3_000):
        user = int(random.integers(1, 40) if n % 2 else 10_000 + n)
        liking = (user, int(random.integers(ITEMS)), n * PAUSE_MS // 10)
        took(live, ids, [liking])
        plain.take(*liking)
        if n % 50 == 0:
            assert votes(live, [1, 2]).tolist() == pytest.approx(bench([rows for _, rows, _ in plain.held], [1, 2]).tolist())
    assert len(live) == 8


def test_late_likings_are_a_session_of_their_own() -> None:
    index, ids = index_of(ITEMS)
    live = Sessions(index)
    took(live, ids, [(1, 0, 10 * PAUSE_MS), (1, 1, 10 * PAUSE_MS + 1), (1, 2, 0), (1, 3, 1)])
    assert len(live) == 2
    assert votes(live, [2]).tolist() == pytest.approx(bench([[0, 1], [2, 3]], [2]).tolist())


def test_nothing_known_is_zeros_and_unknown_items_are_passed_over() -> None:
    index, ids = index_of(ITEMS)
    live = Sessions(index)
    assert votes(live, [0, 1]).tolist() == [0.0] * ITEMS
    live.take(np.array([1, 1, 1], np.uint64), np.array([ids[0], 12345, ids[1]], np.uint64), np.array([0, 1, 2]))
    assert votes(live, []).tolist() == [0.0] * ITEMS
    assert votes(live, [5]).tolist() == [0.0] * ITEMS, "an item of no session, and a newborn one, leads nowhere"
    took(live, ids, [(2, 4, 0)])
    assert votes(live, [0])[1] > 0
    assert votes(live, [0], items=2_000).shape == (2_000,), "a catalogue that has grown since"
    assert votes(live, [0], items=1).shape == (1,)
    live.clear()
    assert not votes(live, [0]).any() and len(live) == 0


def test_an_item_that_nearly_all_hold_is_looked_at_within_the_bounds() -> None:
    items, sessions = 500, 20_000
    index, ids = index_of(items)
    live, random = Sessions(index), np.random.default_rng(5)
    users = np.repeat(np.arange(1, sessions + 1), 8)
    rows = random.integers(0, items, size=len(users))
    rows[::8] = 0
    live.take(users.astype(np.uint64), ids[rows], np.arange(len(users)))
    prefix = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    votes(live, prefix, items)
    began = time.process_time()
    for _ in range(100):
        found = votes(live, prefix, items)
    assert (time.process_time() - began) / 100 < 0.005, "measured .0001; five milliseconds would be no bound"
    assert 0 < np.count_nonzero(found) <= NEIGHBOURS_MAX * 8
