"""Counts: a table of four words an item, summed over partitions, decayed to the moment asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import I64s, U64s
from storage.counts import Counts, load_counts, store_counts
from storage.decay import SCALE_BITS
from storage.state import COUNTS, Write
from storage.state_memory import MemoryState

ONE = 1 << SCALE_BITS
rows = st.lists(st.lists(st.integers(0, 1 << 62), min_size=4, max_size=4), max_size=6)


def ids(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def table(*values: tuple[int, int, int, int]) -> I64s:
    return np.array(values, dtype=np.int64).reshape(-1, 4)


@given(rows)
def test_counts_are_loaded_as_they_were_stored(values: list[list[int]]) -> None:
    counts = np.array(values, dtype=np.int64).reshape(-1, 4)
    blobs = [bytes(blob) for blob in store_counts(counts)]
    assert all(len(blob) == 32 for blob in blobs)
    assert np.array_equal(load_counts(blobs), counts)
    assert np.array_equal(load_counts([None, *blobs, None])[1:-1], counts)


def test_a_read_sums_partitions_and_knows_nothing_of_what_nobody_touched() -> None:
    state = MemoryState()
    state.commit([], [Write(COUNTS, 0, ids(1, 2), store_counts(table((3, 2, 4 * ONE, 0), (1, 0, 0, 0))))])
    state.commit([], [Write(COUNTS, 2, ids(1), store_counts(table((5, 5, ONE, 2))))])
    found = Counts(state, 3, 1000).read(ids(2, 1, 9), as_of_ms=2000)
    assert found.events.tolist() == [1, 8, 0] and found.positives.tolist() == [0, 7, 0]
    assert found.decayed.tolist() == [0.0, 4 / 4 + 1, 0.0]
    assert Counts(state, 3, 1000).read(ids(), as_of_ms=0).events.tolist() == []
    assert [(item, row.tolist()) for item, row in Counts(state, 3, 1000).scan()] == [
        (1, [3, 2, 4 * ONE, 0]), (2, [1, 0, 0, 0]), (1, [5, 5, ONE, 2]),
    ]  # fmt: skip


@pytest.mark.parametrize(("as_of_ms", "expected"), [(5000, 3.0), (6000, 1.5), (4000, 6.0), (5500, 3 / 2**0.5)])
def test_the_decayed_count_is_of_the_moment_asked_for(as_of_ms: int, expected: float) -> None:
    assert Counts(MemoryState(), 1, 1000).decayed(table((1, 1, 3 * ONE, 5)), as_of_ms)[0] == pytest.approx(expected)


def test_reading_at_absurd_times_stays_a_number() -> None:
    counts = Counts(MemoryState(), 1, 1000)
    for as_of_ms in (0, 10**18):
        assert np.isfinite(counts.decayed(table((1, 1, 1 << 62, 10**9), (1, 1, 1 << 62, 0), (0, 0, 0, 0)), as_of_ms)).all()
