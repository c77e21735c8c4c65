"""Histories and seen-sets as stored: a layout, read after write, and room that ends at the bound."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.histories import RING, TS_MS_MAX, Histories, decode, load_histories, load_seen, store_histories, store_seen
from storage.ragged import cut, words
from storage.state import HISTORIES, SEEN, Write
from storage.state_memory import MemoryState

u64s = st.integers(0, (1 << 64) - 1)
entry = st.tuples(u64s, st.integers(0, TS_MS_MAX), st.integers(0, 255), st.integers(0, 255))


def blob_of(entries: list[tuple[int, int, int, int]], ring: list[int], position: int = 0) -> bytes:
    """The layout of the docstring, once more: one head word, two words an entry, the ring."""
    rows = b"".join(struct.pack("<2Q", item, ts_ms << 16 | action << 8 | surface) for item, ts_ms, action, surface in entries)
    return struct.pack("<Q", len(entries) | len(ring) << 16 | position << 32) + rows + struct.pack(f"<{len(ring)}Q", *ring)


histories = st.none() | st.builds(blob_of, st.lists(entry, max_size=6), st.lists(u64s, max_size=RING), st.integers(0, RING - 1))


@given(st.lists(entry, max_size=256), st.lists(u64s, max_size=RING))
def test_a_history_is_read_as_it_was_written(entries: list[tuple[int, int, int, int]], ring: list[int]) -> None:
    history = decode(blob_of(entries, ring))
    columns = (history.items, history.ts_ms, history.actions, history.surfaces)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == entries and len(history) == len(entries)
    assert [str(column.dtype) for column in columns] == ["uint64", "int64", "uint8", "uint8"]


@given(st.lists(histories, max_size=6), st.integers(0, 9))
def test_histories_are_stored_as_they_were_loaded(blobs: list[bytes | None], added: int) -> None:
    held = load_histories(*words(blobs), np.full(len(blobs), added, dtype=np.int64), 8)
    assert [bytes(blob) for blob in cut(*store_histories(held))] == [blob or b"\0" * 8 for blob in blobs]
    assert np.diff(held.start).tolist() == [min(size + added, 8) for size in held.size.tolist()], "room for what is added, up to the bound"
    assert np.diff(held.ring_start).tolist() == [min(size + added, RING) for size in held.ring_size.tolist()]


@given(st.lists(st.none() | st.lists(st.tuples(u64s, st.integers(0, TS_MS_MAX)), max_size=5), max_size=6), st.integers(0, 9))
def test_seen_sets_are_stored_as_they_were_loaded(rows: list[list[tuple[int, int]] | None], added: int) -> None:
    blobs = [None if row is None else b"".join(struct.pack("<Qq", *pair) for pair in row) for row in rows]
    held = load_seen(*words(blobs), np.full(len(blobs), added, dtype=np.int64), 7)
    assert held.size.tolist() == [len(row or []) for row in rows]
    assert [bytes(blob) for blob in cut(*store_seen(held))] == [blob or b"" for blob in blobs]
    assert np.diff(held.start).tolist() == [min(size + added, 7) for size in held.size.tolist()]


def test_reading_after_writing_and_where_there_is_nothing() -> None:
    state = MemoryState()
    users = np.array([5], dtype=np.uint64)
    seen = struct.pack("<4Q", 7, 100, 9, 50)
    state.commit([], [Write(HISTORIES, 1, users, [blob_of([(7, 100, 1, 2)], [3])]), Write(SEEN, 1, users, [seen])])
    histories = Histories(state)
    assert histories.read(5, 1).items.tolist() == [7] and histories.read(5, 1).ts_ms.tolist() == [100]
    assert histories.seen(5, 1).tolist() == [7, 9]
    for user, partition in ((5, 0), (6, 1)):
        assert len(histories.read(user, partition)) == 0 and len(histories.seen(user, partition)) == 0


@pytest.mark.parametrize("size", [1, 128, 256])
def test_a_history_beyond_a_smaller_bound_keeps_its_room(size: int) -> None:
    blob = blob_of([(n, n, 1, 0) for n in range(size)], list(range(RING)), 5)
    held = load_histories(*words([blob]), np.array([3], dtype=np.int64), 4)
    assert held.start.tolist() == [0, max(size, min(size + 3, 4))]
    assert [bytes(stored) for stored in cut(*store_histories(held))] == [blob]
