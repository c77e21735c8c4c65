"""What `EdgeVectors` adds to the contract: durability, locks, damage, whole batches for readers, and the engine beyond exact_max."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from storage import vectors_edge
from storage.arrays import F32s, U64s
from storage.files import DiskFull
from storage.vectors import VectorsDamaged, VectorsLocked
from storage.vectors_edge import EdgeVectors, VectorFolder

ROOT = Path(__file__).parents[2]
DIM = 8


def nodes(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def many(count: int, seed: int = 0, dim: int = DIM) -> tuple[U64s, F32s]:
    generator = np.random.default_rng(seed)
    ids = np.unique(generator.integers(1, 2**64, size=count, dtype=np.uint64, endpoint=False))
    rows = generator.standard_normal((len(ids), dim), dtype=np.float32)
    return generator.permutation(ids), rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row(*values: float) -> F32s:
    return np.array([[*values, *[0.0] * (DIM - len(values))]], dtype=np.float32)


def test_a_reader_sees_whole_batches_only(tmp_path: Path) -> None:
    vectors = EdgeVectors(tmp_path / "items-g1", DIM)
    ids, _ = many(100)
    query = np.full((1, DIM), 1 / DIM, np.float32)
    vectors.upsert(ids, np.ones((100, DIM), np.float32), revision=1)
    done = threading.Event()
    errors: list[str] = []

    def read() -> None:
        while not done.is_set():
            found, scores = vectors.search(query, 100, exclude=nodes(5))
            rows, there = vectors.get(ids)
            snapshot_ids, matrix = vectors.matrix()
            if sorted(found[0].tolist()) != sorted(ids.tolist()) or len(set(scores[0].tolist())) != 1:
                errors.append(f"search {scores}")
            if not there.all() or len(np.unique(rows)) != 1:
                errors.append(f"get {rows}")
            if sorted(snapshot_ids.tolist()) != sorted(ids.tolist()) or len(np.unique(matrix)) != 1:
                errors.append(f"matrix {matrix}")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(2, 120):
        vectors.upsert(ids, np.full((100, DIM), number, np.float32), revision=number)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    vectors.close()


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from storage.vectors_edge import EdgeVectors
vectors = EdgeVectors(Path(sys.argv[1]), 8)
rows = np.arange(3000 * 8, dtype=np.float32).reshape(3000, 8)
ids = np.arange(1, 3001, dtype=np.uint64)
vectors.upsert(ids, rows, revision=5)
vectors.delete(ids[:10], revision=6)
vectors.flush()
print("flushed", flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def start_child(path: Path, then: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(path), then]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    with start_child(tmp_path / "items-g1", "die") as child:
        assert child.wait() == -signal.SIGKILL
    vectors = EdgeVectors(tmp_path / "items-g1", 8)
    assert (len(vectors), vectors.revision_max()) == (2990, 6)
    rows, found = vectors.get(np.arange(1, 3001, dtype=np.uint64))
    assert found.tolist() == [False] * 10 + [True] * 2990
    assert np.array_equal(rows[10:], np.arange(3000 * 8, dtype=np.float32).reshape(3000, 8)[10:])
    vectors.upsert(nodes(1), row(1), revision=5)
    assert len(vectors) == 2990, "the tombstone survived too"
    vectors.close()


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "items-g1"
    with start_child(path, "wait") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "flushed\n"
        with pytest.raises(VectorsLocked, match=rf"items-g1 is open in process {child.pid}: .*Stop that process"):
            EdgeVectors(path, 8)
        with pytest.raises(VectorsLocked, match="open in process"):
            VectorFolder(tmp_path).drop(1)
    vectors = EdgeVectors(path, 8)
    with pytest.raises(VectorsLocked, match=f"open in process {os.getpid()}"):
        EdgeVectors(path, 8)
    vectors.close()
    vectors.close()
    assert len(vectors) == 2990, "reading from memory goes on"
    with pytest.raises(VectorsLocked, match="was closed here"):
        vectors.upsert(nodes(1), row(1), revision=9)


def test_one_folder_shares_what_it_opened(tmp_path: Path) -> None:
    folder = VectorFolder(tmp_path)
    vectors = folder.open(1, DIM)
    assert folder.open(1, DIM) is vectors
    vectors.close()
    assert folder.open(1, DIM) is not vectors
    folder.close()


def test_a_half_made_collection_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".items-g1.4194999.0.aside").mkdir()
    folder = VectorFolder(tmp_path)
    assert folder.generations() == []
    folder.open(1, DIM).upsert(nodes(7), row(1), revision=1)
    folder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items-g1", "items-g1.lock"]
    assert len(VectorFolder(tmp_path).open(1, DIM)) == 1


def test_a_full_disk_is_noticed_before_the_engine_meets_it(tmp_path: Path) -> None:
    vectors = EdgeVectors(tmp_path / "items-g1", DIM)
    vectors.upsert(nodes(7), row(1), revision=1)
    vectors.close()
    vectors = EdgeVectors(tmp_path / "items-g1", DIM, free_bytes_min=2**62)
    with pytest.raises(DiskFull, match=r"items-g1: .* MB free"):
        vectors.upsert(nodes(7, 8), np.vstack([row(2), row(2)]), revision=2)
    with pytest.raises(DiskFull):
        vectors.delete(nodes(7), revision=2)
    assert vectors.get(nodes(7, 8))[0][:, 0].tolist() == [1, 0]
    vectors.close()
    with pytest.raises(DiskFull):
        EdgeVectors(tmp_path / "items-g2", DIM, free_bytes_min=2**62)
    assert not (tmp_path / "items-g2").exists()


def test_a_flipped_bit_in_a_vector_is_noticed_at_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids, rows = many(20)
    vectors = EdgeVectors(tmp_path / "items-g1", DIM)
    vectors.upsert(ids, rows, revision=5)
    vectors.close()
    flipped = 0
    for path in (tmp_path / "items-g1").rglob("chunk_0.mmap"):
        with path.open("r+b") as file:
            flipped += 1
            at = file.read(1_000_000).index(rows[3].tobytes())
            file.seek(at)
            file.write((rows[3] * 2).tobytes())
    assert flipped == 1
    for _ in range(2):
        vectors = EdgeVectors(tmp_path / "items-g1", DIM)
        assert len(vectors) == 19
        assert not vectors.get(ids[3:4])[1].any()
        vectors.close()
    assert [record.message for record in caplog.records] == ["vectors.damaged collection=items-g1 points=1: removed, refresh them"]
    vectors = EdgeVectors(tmp_path / "items-g1", DIM)
    vectors.upsert(ids, rows, revision=2)
    assert np.array_equal(vectors.get(ids)[0], rows), "any revision brings it back"
    vectors.close()


@pytest.mark.parametrize("file", ["edge_config.json", "segments/*/segment.json", "segments/*/vector_storage/vectors/status.dat"])
def test_unreadable_files_are_a_clear_error_and_can_be_dropped(tmp_path: Path, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = VectorFolder(tmp_path)
    folder.open(1, DIM).upsert(nodes(7), row(1), revision=1)
    folder.close()
    for path in (tmp_path / "items-g1").glob(file):
        path.write_bytes(b"")
    with pytest.raises(VectorsDamaged, match=r"items-g1: .*drop the generation and refresh"):
        folder.open(1, DIM)
    folder.drop(1)
    assert len(folder.open(1, DIM)) == 0
    folder.close()
    capfd.readouterr()  # the engine prints its panics


def test_the_engine_agrees_with_the_mirror(tmp_path: Path) -> None:
    folder = VectorFolder(tmp_path, exact_max=500)
    vectors = folder.open(1, 32)
    ids, rows = many(500, dim=32)
    queries = many(6, seed=3, dim=32)[1]
    vectors.upsert(ids, rows, revision=1)
    exclude = vectors.search(queries[:1], 5)[0][0]
    exact = vectors.search(queries, 20, exclude=exclude)
    vectors.upsert(nodes(77), -queries[:1], revision=2)
    vectors.delete(many(30, seed=4)[0], revision=2)
    beyond = vectors.search(queries, 20, exclude=np.append(exclude, nodes(77)))
    assert np.array_equal(exact[0], beyond[0])
    assert np.allclose(exact[1], beyond[1], atol=1e-6)
    folder.close()


def test_tombstones_in_the_engine_s_answer_do_not_cost_places(tmp_path: Path) -> None:
    vectors = EdgeVectors(tmp_path / "items-g1", DIM, exact_max=0)
    vectors.upsert(nodes(1, 2), np.vstack([row(-1), row(-2)]), revision=1)
    vectors.delete(many(40)[0], revision=1)
    assert vectors.search(row(1), 3)[0].tolist() == [[1, 2, 0]], "40 tombstones score 0, above both"
    vectors.close()


def test_the_write_ahead_log_is_bounded_by_flushes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_edge, "UNFLUSHED_MAX", 500)
    vectors = EdgeVectors(tmp_path / "items-g1", DIM)
    ids, rows = many(256)

    def flushed_ids() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("mutable_id_tracker.mappings"))

    before = flushed_ids()
    vectors.upsert(ids[:250], rows[:250], revision=1)
    assert flushed_ids() == before, "not yet"
    vectors.upsert(ids, rows, revision=2)
    assert flushed_ids() > before
    vectors.close()
