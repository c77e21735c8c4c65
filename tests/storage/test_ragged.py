"""Many small blobs as one array: joining and cutting give back what went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.ragged import cut, group, number_rows, room, starts, words

u64s = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.none() | st.lists(u64s, max_size=5), max_size=8))
def test_cutting_undoes_joining(rows: list[list[int] | None]) -> None:
    blobs = [None if row is None else np.array(row, dtype=np.uint64).tobytes() for row in rows]
    flat, begin = words(blobs)
    assert flat.dtype == np.uint64 and begin.tolist()[-1] == len(flat) == sum(len(row or []) for row in rows)
    assert [bytes(blob) for blob in cut(flat, begin)] == [blob or b"" for blob in blobs]


def test_nothing_and_an_empty_blob_are_empty_rows() -> None:
    flat, begin = words([b"\1" + b"\0" * 15, b"", None])
    assert flat.tolist() == [1, 0] and begin.tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_without_a_word_are_empty(rows: int) -> None:
    assert [bytes(blob) for blob in cut(np.empty(0, dtype=np.uint64), np.zeros(rows + 1, dtype=np.int64))] == [b""] * rows


def test_starts_are_running_sums() -> None:
    assert starts(np.array([2, 0, 5], dtype=np.int64)).tolist() == [0, 2, 2, 7]
    assert starts(np.empty(0, dtype=np.int64)).tolist() == [0]


@given(st.lists(st.integers(0, 20) | u64s | st.integers(0, 30).map(lambda n: n << 44), max_size=80))
def test_rows_are_numbered_by_first_appearance(ids: list[int]) -> None:
    first, rows = number_rows(np.array(ids, dtype=np.uint64))
    assert first.tolist() == [ids.index(node) for node in dict.fromkeys(ids)]
    assert [ids[first[row]] for row in rows.tolist()] == ids


@given(st.lists(st.integers(0, 6), max_size=40))
def test_grouping_is_a_stable_sort(rows: list[int]) -> None:
    order, begin = group(np.array(rows, dtype=np.int64), 7)
    assert order.tolist() == sorted(range(len(rows)), key=lambda n: rows[n])
    assert np.diff(begin).tolist() == [rows.count(row) for row in range(7)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), st.integers(1, 9))
def test_room_grows_up_to_the_bound_and_shrinks_no_row(rows: list[tuple[int, int]], bound: int) -> None:
    size, added = np.array(rows, dtype=np.int64).reshape(-1, 2).T.copy()
    start = room(size, added, bound)
    assert start[0] == 0 and np.diff(start).tolist() == [max(have, min(have + more, bound)) for have, more in rows]
