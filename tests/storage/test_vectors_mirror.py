"""The mirror by itself: against a plain dictionary, as a snapshot, and fast."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from storage.arrays import F32s, U64s
from storage.vectors import best
from storage.vectors_mirror import Mirror

DIM = 8


def nodes(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def many(count: int, seed: int = 0, dim: int = DIM) -> tuple[U64s, F32s]:
    generator = np.random.default_rng(seed)
    ids = np.unique(generator.integers(1, 2**64, size=count, dtype=np.uint64, endpoint=False))
    rows = generator.standard_normal((len(ids), dim), dtype=np.float32)
    return generator.permutation(ids), rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("held", [0, 300])
def test_the_mirror_equals_a_plain_dictionary(held: int) -> None:
    generator = np.random.default_rng(5)
    first, under = np.arange(1, 1 + held, dtype=np.uint64), generator.standard_normal((held, 4), dtype=np.float32)
    mirror, before = Mirror.over(first, under, 1), under.copy()
    plain = dict(zip(first.tolist(), under.tolist(), strict=True))
    revisions = dict.fromkeys(plain, 1)
    for _ in range(400):
        number = int(generator.integers(1, 200))
        ids = np.unique(generator.integers(1, 900, size=int(generator.integers(0, 40)), dtype=np.uint64))
        rows = generator.standard_normal((len(ids), 4), dtype=np.float32)
        buried = generator.random() < 0.2
        if buried:
            mirror.bury(ids, number)
        else:
            mirror.put(ids, rows, number)
        for node, vector in zip(ids.tolist(), rows.tolist(), strict=True):
            if revisions.get(node, 0) < number:
                revisions[node] = number
                plain.pop(node, None)
                if not buried:
                    plain[node] = vector
        assert len(mirror) == len(plain)
    assert mirror.revision_max == max(revisions.values())
    rows, found = mirror.get(np.arange(900, dtype=np.uint64))
    assert {node: rows[node].tolist() for node in np.flatnonzero(found).tolist()} == plain
    ids, matrix = mirror.matrix()
    assert dict(zip(ids.tolist(), matrix.tolist(), strict=True)) == plain
    assert np.array_equal(under, before), "what it was made over is not its own to change"


def test_a_snapshot_stays_as_it_was() -> None:
    mirror = Mirror(DIM)
    ids, rows = many(50)
    mirror.put(ids, rows, 1)
    snapshot_ids, matrix = mirror.matrix()
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1.0
    for number in range(2, 60):
        mirror.put(ids, rows * number, number)
    assert np.array_equal(snapshot_ids, ids)
    assert np.array_equal(matrix, rows)
    assert len(mirror.matrix()[0]) == 50


def test_the_best_are_exact_with_ties_at_the_edge() -> None:
    scores = np.array([0.5, 1.0, 0.5, -np.inf, 0.5, 0.25], np.float32)
    ids = nodes(9, 8, 3, 1, 7, 2)
    for k, expected in ((1, [8]), (2, [8, 3]), (3, [8, 3, 7]), (4, [8, 3, 7, 9]), (6, [8, 3, 7, 9, 2]), (9, [8, 3, 7, 9, 2])):
        assert best(scores, ids, k)[0].tolist() == expected


def test_look_ups_are_fast() -> None:
    """Bounds of ten times and more what an idle machine takes, so that only a change of kind fails."""
    mirror = Mirror(64)
    ids, rows = many(1682, dim=64)
    mirror.put(ids, rows, 1)
    assert quickest(lambda: mirror.search(rows[:1], 10, None)) < 500e-6
    assert quickest(lambda: mirror.get(ids[:128])) < 200e-6
    ids, rows = many(100_000, dim=64)
    mirror.put(ids, rows, 2)
    assert quickest(lambda: mirror.search(rows[:1], 10, None)) < 20e-3


def quickest(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
