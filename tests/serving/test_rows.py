"""The compiled index says what the catalogue says."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.rows import RowIndex
from storage.catalogue import Catalogue

IDS = st.integers(1, 2**64 - 1) | st.integers(1, 40).map(lambda n: n << 50)  # the second: many with the same low bits


@given(st.lists(st.lists(IDS, max_size=40), max_size=6), st.lists(IDS | st.just(0), max_size=20), st.integers(0, 300))
def test_it_follows_the_catalogue(batches: list[list[int]], unknown: list[int], below: int) -> None:
    catalogue = Catalogue()
    index = RowIndex(catalogue)
    for batch in batches:
        for node in batch:
            catalogue.add(node, str(node))
        asked = np.array([*batch, *unknown], dtype=np.uint64)
        rows = catalogue.rows(asked).tolist()
        assert index.rows(asked).tolist() == rows
        assert index.known(asked, below=below).tolist() == [row for row in rows if 0 <= row < below]


def test_it_grows() -> None:
    catalogue = Catalogue()
    index = RowIndex(catalogue)
    ids = np.random.default_rng(0).integers(1, 2**64, size=20_000, dtype=np.uint64)
    for start in range(0, len(ids), 3_000):
        for node in ids[start : start + 3_000].tolist():
            catalogue.add(node, "x")
        assert np.array_equal(index.rows(ids), catalogue.rows(ids))


def test_what_is_known_is_found_by_all_while_it_grows() -> None:
    catalogue = Catalogue()
    index = RowIndex(catalogue)
    ids = np.random.default_rng(1).integers(1, 2**64, size=30_000, dtype=np.uint64)
    for node in ids[:1000].tolist():
        catalogue.add(node, "x")
    wrong, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            if not np.array_equal(index.rows(ids[:1000]), np.arange(1000)):
                wrong.append(True)

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    for node in ids[1000:].tolist():
        catalogue.add(node, "x")
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert np.array_equal(index.rows(ids), catalogue.rows(ids))
