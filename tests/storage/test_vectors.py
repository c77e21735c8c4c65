"""The contract of `Vectors` over every implementation."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from storage.arrays import F32s, U64s
from storage.vectors import UPSERT_MAX, Collections, Vectors, collection_of, revision
from storage.vectors_edge import VectorFolder
from storage.vectors_local import LocalVectors, VectorServer
from storage.vectors_memory import MemoryVectors

DIM = 8
SERVER = os.environ.get("FRESHET_TEST_QDRANT_URL")


class MemoryFolder:
    """Collections of `MemoryVectors`, which live as long as this."""

    def __init__(self) -> None:
        self._open: dict[int, MemoryVectors] = {}

    def open(self, generation: int, dim: int) -> MemoryVectors:
        vectors = self._open.setdefault(generation, MemoryVectors(dim, collection=collection_of(generation)))
        if vectors.dim != dim:
            raise ValueError(f"{vectors.collection} holds rows of {vectors.dim}, asked for {dim}: another dim is another generation")
        return vectors

    def generations(self) -> list[int]:
        return sorted(self._open)

    def drop(self, generation: int) -> None:
        self._open.pop(generation, None)

    def close(self) -> None:
        for vectors in self._open.values():
            vectors.close()


def nodes(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def many(count: int, seed: int = 0, dim: int = DIM) -> tuple[U64s, F32s]:
    generator = np.random.default_rng(seed)
    ids = np.unique(generator.integers(1, 2**64, size=count, dtype=np.uint64, endpoint=False))
    rows = generator.standard_normal((len(ids), dim), dtype=np.float32)
    return generator.permutation(ids), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row(*values: float) -> F32s:
    return np.array([[*values, *[0.0] * (DIM - len(values))]], dtype=np.float32)


@pytest.fixture(params=["edge", "edge beyond exact_max", "memory", "local", "server"])
def collections(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collections]:
    place: Collections
    client = None
    if request.param == "server":
        if SERVER is None:
            pytest.skip("set FRESHET_TEST_QDRANT_URL to the address of a Qdrant server")
        client = QdrantClient(SERVER, prefer_grpc=True)
        place = VectorServer(client)
        for generation in place.generations():
            place.drop(generation)
    elif request.param == "memory":
        place = MemoryFolder()
    elif request.param == "local":
        client = QdrantClient(":memory:")
        place = VectorServer(client)
    else:
        place = VectorFolder(tmp_path / "vectors", exact_max=100_000 if request.param == "edge" else 0)
    yield place
    place.close()
    if client is not None:
        client.close()


@pytest.fixture
def vectors(collections: Collections) -> Vectors:
    return collections.open(1, DIM)


def test_an_empty_collection_answers(vectors: Vectors) -> None:
    vectors.upsert(nodes(), np.zeros((0, DIM), np.float32), revision=1)
    vectors.delete(nodes(), revision=1)
    ids, scores = vectors.search(row(1), 3)
    assert (vectors.dim, vectors.collection, len(vectors), vectors.revision_max()) == (DIM, "items-g1", 0, 0)
    assert ids.tolist() == [[0, 0, 0]]
    assert np.isneginf(scores).all()
    assert vectors.get(nodes(5))[1].tolist() == [False]
    assert vectors.get(nodes())[0].shape == (0, DIM)
    assert vectors.search(np.zeros((0, DIM), np.float32), 3)[0].shape == (0, 3)


def test_what_was_written_is_read_to_the_bit(vectors: Vectors) -> None:
    ids, rows = many(2 * UPSERT_MAX + 7)
    vectors.upsert(ids, rows, revision=1)
    found, there = vectors.get(np.concatenate([ids[::-1], nodes(1, 0), ids[:1]]))
    assert there.tolist() == [True] * len(ids) + [False, False, True]
    assert np.array_equal(found[: len(ids)], rows[::-1])
    assert not found[len(ids) : len(ids) + 2].any()
    assert len(vectors) == len(ids)
    assert [each.dtype.name for each in (found, there)] == ["float32", "bool"]


def test_the_largest_id_and_revision_fit(vectors: Vectors) -> None:
    vectors.upsert(nodes(2**64 - 1), row(1), revision=2**53 - 2)
    vectors.upsert(nodes(2**64 - 1), row(2), revision=2**53 - 1)
    assert vectors.revision_max() == 2**53 - 1
    assert vectors.get(nodes(2**64 - 1))[0].tolist() == row(2).tolist()
    assert vectors.search(row(1), 1)[0].tolist() == [[2**64 - 1]]


def test_newer_wins_in_any_order(vectors: Vectors) -> None:
    vectors.upsert(nodes(7), row(1), revision=revision(2, 0))
    vectors.upsert(nodes(7, 8), np.vstack([row(2), row(3)]), revision=revision(1, 9))
    assert vectors.get(nodes(7, 8))[0][:, 0].tolist() == [1, 3], "an older write inserts what is new and changes nothing else"
    vectors.upsert(nodes(7), row(4), revision=revision(2, 0))
    assert vectors.get(nodes(7))[0][0, 0] == 1, "the same revision again has no effect"
    vectors.upsert(nodes(7), row(5), revision=revision(2, 1))
    assert vectors.get(nodes(7))[0][0, 0] == 5
    assert vectors.revision_max() == revision(2, 1)
    assert len(vectors) == 2


def test_a_deletion_stays_until_a_later_revision(vectors: Vectors) -> None:
    vectors.upsert(nodes(7, 8), np.vstack([row(1), row(1)]), revision=5)
    vectors.delete(nodes(7), revision=4)
    assert len(vectors) == 2, "an older deletion has no effect"
    vectors.delete(nodes(7, 9), revision=6)
    vectors.upsert(nodes(7, 9), np.vstack([row(1), row(1)]), revision=6)
    vectors.upsert(nodes(7, 9), np.vstack([row(1), row(1)]), revision=5)
    assert vectors.search(row(1), 3)[0].tolist() == [[8, 0, 0]]
    assert vectors.search(row(-1), 3)[0].tolist() == [[8, 0, 0]], "a tombstone's zeros would score higher"
    assert vectors.get(nodes(7, 9))[1].tolist() == [False, False]
    assert (len(vectors), vectors.revision_max()) == (1, 6)
    vectors.upsert(nodes(7), row(2), revision=7)
    assert vectors.search(row(1), 3)[0].tolist() == [[7, 8, 0]]


def test_of_an_id_given_twice_the_last_row_counts(vectors: Vectors) -> None:
    ids = np.concatenate([nodes(7), many(UPSERT_MAX)[0], nodes(7, 7)])
    rows = np.zeros((len(ids), DIM), np.float32)
    rows[:, 0] = np.arange(len(ids))
    vectors.upsert(ids, rows, revision=1)
    assert vectors.get(nodes(7))[0][0, 0] == len(ids) - 1
    vectors.delete(nodes(7, 7), revision=2)
    assert len(vectors) == UPSERT_MAX


def test_search_is_exact_excludes_and_pads(vectors: Vectors) -> None:
    ids, rows = many(300, seed=1)
    vectors.upsert(ids, rows, revision=1)
    vectors.upsert(ids[:50], rows[50:100], revision=2)
    vectors.delete(ids[100:110], revision=3)
    rows[:50] = rows[50:100]
    exclude = np.concatenate([ids[110:250], nodes(0, 12345)])
    hidden = np.isin(ids, np.concatenate([exclude, ids[100:110]]))
    queries = many(5, seed=2)[1]
    found, scores = vectors.search(queries, 20, exclude=exclude)
    for query, some, their in zip(queries, found, scores, strict=True):
        expected = np.where(hidden, -np.inf, rows.astype(np.float64) @ query.astype(np.float64))
        assert np.allclose(their, np.sort(expected)[::-1][:20], atol=1e-6)
        assert not np.isin(some, ids[hidden]).any()
        assert np.allclose(expected[[int(np.flatnonzero(ids == each)[0]) for each in some]], their, atol=1e-6)
    everything, scores = vectors.search(queries[:1], 400)
    assert (everything[0, :290] != 0).all()
    assert not everything[0, 290:].any()
    assert np.isneginf(scores[0, 290:]).all()
    assert vectors.search(queries, 3, exclude=ids)[0].tolist() == [[0, 0, 0]] * 5


def test_ties_go_by_ascending_id(vectors: Vectors) -> None:
    ids = nodes(9, 2, 2**63 + 1, 5, 30)
    vectors.upsert(ids, np.repeat(row(0.5), 5, axis=0), revision=1)
    vectors.upsert(nodes(4), row(1), revision=1)
    assert vectors.search(row(1), 6)[0].tolist() == [[4, 2, 5, 9, 30, 2**63 + 1]]


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (nodes(1), np.zeros((1, DIM + 1), np.float32), "holds rows of 8"),
        (nodes(1), np.zeros(DIM, np.float32), "holds rows of 8"),
        (nodes(1, 2), np.zeros((1, DIM), np.float32), "2 ids and 1 vectors"),
        (nodes(1, 2), np.array([[0.0] * DIM, [np.nan] * DIM], np.float32), "NaN or infinity in row 1"),
        (nodes(1), np.full((1, DIM), np.inf, np.float32), "NaN or infinity in row 0"),
        (nodes(1, 0), np.zeros((2, DIM), np.float32), "id 0 at position 1"),
        (np.array([1], np.int64), np.zeros((1, DIM), np.float32), "int64"),
    ],
)
def test_a_bad_batch_is_refused_and_changes_nothing(vectors: Vectors, ids: U64s, rows: F32s, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vectors.upsert(ids, rows, revision=1)
    assert len(vectors) == 0


def test_bad_revisions_and_searches_are_refused(vectors: Vectors) -> None:
    for bad in (0, -1, 2**53):
        with pytest.raises(ValueError, match="outside 1 <= revision < 2"):
            vectors.upsert(nodes(1), row(1), revision=bad)
        with pytest.raises(ValueError, match="outside 1 <= revision < 2"):
            vectors.delete(nodes(1), revision=bad)
    with pytest.raises(ValueError, match="k is 0"):
        vectors.search(row(1), 0)
    with pytest.raises(ValueError, match="queries hold NaN"):
        vectors.search(row(np.nan), 1)
    with pytest.raises(ValueError, match="queries have shape"):
        vectors.search(np.zeros((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="claim a new epoch"):
        revision(1, 2**32)


def test_vectors_of_any_length_are_scored_by_inner_product(vectors: Vectors) -> None:
    vectors.upsert(nodes(1, 2), np.vstack([row(3), row(0.5)]), revision=1)
    ids, scores = vectors.search(row(2), 2)
    assert ids.tolist() == [[1, 2]]
    assert scores.tolist() == [[6.0, 1.0]]


def test_a_generation_has_a_collection_of_its_own(collections: Collections) -> None:
    first, second = collections.open(1, DIM), collections.open(12, 4)
    first.upsert(nodes(7), row(1), revision=1)
    assert (len(first), len(second)) == (1, 0)
    assert collections.generations() == [1, 12]
    assert len(collections.open(1, DIM)) == 1
    with pytest.raises(ValueError, match=r"of 8, asked for 4: another dim is another generation"):
        collections.open(1, 4)
    collections.drop(1)
    collections.drop(5)
    assert collections.generations() == [12]
    assert len(collections.open(1, DIM)) == 0


def test_writers_and_readers_at_once_agree(vectors: Vectors) -> None:
    if isinstance(vectors, LocalVectors) and SERVER is None:
        pytest.skip("the client's local mode has no locks of its own")
    ids, _ = many(64)
    ready = threading.Barrier(3)

    def write(start: int) -> None:
        ready.wait()
        for number in range(start, 40, 2):
            vectors.upsert(ids, np.full((len(ids), DIM), number, np.float32), revision=number)

    threads = [threading.Thread(target=write, args=(start,)) for start in (1, 2)]
    for thread in threads:
        thread.start()
    ready.wait()
    while any(thread.is_alive() for thread in threads):
        rows, _ = vectors.get(ids)
        assert (rows == rows[:, :1]).all()
    assert (vectors.get(ids)[0] == 39).all()


def test_scores_are_what_get_and_a_product_give(collections: Collections) -> None:
    vectors = collections.open(1, DIM)
    if not isinstance(vectors, LocalVectors):
        assert not hasattr(vectors, "scores"), "where rows lie in memory they are multiplied there"
        return
    ids, rows = many(500, seed=4)
    vectors.upsert(ids, rows, revision=1)
    vectors.delete(ids[:20], revision=2)
    query = many(1, seed=5)[1][0]
    asked = np.concatenate([ids[::-1], nodes(12345, 0), ids[30:32]])
    found, there = vectors.get(asked)
    assert np.allclose(vectors.scores(query, asked), np.where(there, found @ query, -np.inf), atol=1e-6)
    assert np.isneginf(vectors.scores(query, ids[:20])).all()
    assert vectors.scores(query, nodes()).shape == (0,)
    with pytest.raises(ValueError, match="holds rows of 8"):
        vectors.scores(query[:-1], ids)
