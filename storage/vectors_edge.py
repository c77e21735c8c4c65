"""Vectors in a folder of this machine: qdrant-edge keeps them, an exact in-memory mirror answers.

Not for many processes: the engine's folder has one holder. Every call of the engine holds the GIL, so reads never go
there while the collection has at most `exact_max` items; beyond that, searches do.

    folder = VectorFolder(root / "vectors")
    vectors = folder.open(generation=1, dim=64)
"""

import logging
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import qdrant_edge as engine

from storage.arrays import Bools, F32s, U64s
from storage.files import aside, remove_folder, require_free, sweep, take_lock
from storage.vectors import (
    VectorsDamaged,
    VectorsLocked,
    best,
    check_batch,
    check_ids,
    check_revision,
    check_search,
    collection_of,
    generation_of,
    last_of_each,
    padded,
    parts,
)
from storage.vectors_mirror import Mirror

EXACT_MAX: Final = 100_000
FREE_BYTES_MIN: Final = 256 * 2**20
"""The engine's files are sparse and mapped: on a full disk a write ends the process with SIGBUS, so we stop before."""
OPEN_BYTES_MIN: Final = 64 * 2**20
"""Opening maps a new segment of the write-ahead log, 32 MB: the same end without room for it."""
UNFLUSHED_MAX: Final = 20_000
"""Points after which we flush unasked: only a flush lets the engine drop what its write-ahead log holds."""
_PAGE: Final = 1000
logger = logging.getLogger(__name__)


class EdgeVectors:
    """`Vectors` in one folder. Writers wait for one another; readers wait for nobody longer than a batch's publication.

    Raises at construction: `VectorsLocked` (open elsewhere), `VectorsDamaged` (unreadable), ValueError (another width),
    `DiskFull`. Points whose checksum does not fit are removed with a warning and so are refreshed like new ones.
    """

    def __init__(self, path: Path, dim: int, *, exact_max: int = EXACT_MAX, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; at least 1 is needed")
        self.dim = dim
        self.collection = path.name
        self._path, self._exact_max, self._free_bytes_min = path, exact_max, free_bytes_min
        self._writing = threading.Lock()
        self._unflushed = 0
        self._mirror = Mirror(dim)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _lock(path)
        try:
            self._shard = self._open_shard()
            self._load()
        except BaseException:
            os.close(self._lock)
            raise

    def upsert(self, ids: U64s, vectors: F32s, *, revision: int) -> None:
        """See `Vectors.upsert`. Raises `DiskFull` before a write that could meet a full disk. About 15 us per point."""
        check_revision(revision)
        ids, vectors = check_batch(ids, vectors, self.dim)
        for part in parts(len(ids)):
            with self._writing:
                self._write(ids[part], vectors[part], revision, deleted=False)
                self._mirror.put(ids[part], vectors[part], revision)

    def delete(self, ids: U64s, *, revision: int) -> None:
        """See `Vectors.delete`."""
        check_revision(revision)
        check_ids(ids)
        ids = ids[last_of_each(ids)]
        for part in parts(len(ids)):
            zeros = np.zeros((len(ids[part]), self.dim), np.float32)
            with self._writing:
                self._write(ids[part], zeros, revision, deleted=True)
                self._mirror.bury(ids[part], revision)

    def get(self, ids: U64s) -> tuple[F32s, Bools]:
        """See `Vectors.get`; from memory."""
        return self._mirror.get(ids)

    def rows(self, ids: U64s) -> F32s:
        """Rows (B, D) alone, zeros where there is none."""
        return self._mirror.get(ids)[0]

    def matrix(self) -> tuple[U64s, F32s]:
        """All items as one read-only snapshot: ids (N,), matrix (N, D), in no order; see `Mirror.matrix`."""
        return self._mirror.matrix()

    def search(self, queries: F32s, k: int, *, exclude: U64s | None = None) -> tuple[U64s, F32s]:
        """See `Vectors.search`. Exact from memory up to `exact_max` items; beyond, the engine's, whose ties at rank k are open."""
        queries = check_search(queries, k, self.dim)
        if len(self._mirror) <= self._exact_max:
            return self._mirror.search(queries, k, exclude)
        return self._search_engine(queries, k, exclude)

    def revision_max(self) -> int:
        """See `Vectors.revision_max`; from memory."""
        return self._mirror.revision_max

    def __len__(self) -> int:
        return len(self._mirror)

    def flush(self) -> None:
        """See `Vectors.flush`. Holds the GIL for some 15 ms."""
        with self._writing, _engine_speaks(self._path):
            self._shard.flush()
            self._unflushed = 0

    def close(self) -> None:
        """Flush, close and free the lock. Reads from memory still answer afterwards; writes fail."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            self.flush()
            with _engine_speaks(self._path):
                self._shard.close()
        finally:
            os.close(lock)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._lock is None

    def _open_shard(self) -> engine.EdgeShard:
        if not self._path.exists():
            require_free(self._path, self._free_bytes_min)
            with aside(self._path) as temporary, _engine_speaks(self._path):
                _create(temporary, self.dim)
        require_free(self._path, OPEN_BYTES_MIN)
        with _engine_speaks(self._path):
            return engine.EdgeShard.load(str(self._path))

    def _load(self) -> None:
        damaged: list[int] = []
        offset: Any = None  # the engine's page token is an id of any kind
        while True:
            with _engine_speaks(self._path):
                request = engine.ScrollRequest(offset=offset, limit=_PAGE, with_vector=True, with_payload=True)
                records, offset = self._shard.scroll(request)
            damaged += self._restore(records)
            if offset is None:
                break
        if damaged:
            logger.warning("vectors.damaged collection=%s points=%d: removed, refresh them", self.collection, len(damaged))
            with _engine_speaks(self._path):
                self._shard.update(engine.UpdateOperation.delete_points(list(damaged)))

    def _restore(self, records: list[engine.Record]) -> list[int]:
        """Put one page of stored points into the mirror; returns the ids of damaged ones."""
        damaged: list[int] = []
        living: dict[int, F32s] = {}
        revisions: dict[int, int] = {}
        for record in records:
            node, payload = cast(int, record.id), record.payload or {}
            vector = np.array(record.vector, dtype=np.float32)
            if vector.shape != (self.dim,):
                raise ValueError(f"{self._path} holds vectors of {vector.size}, asked for {self.dim}: another dim is another generation")
            if payload.get("sum") != _checksum(node, vector, payload.get("rev"), payload.get("deleted")):
                damaged.append(node)
                continue
            revisions[node] = payload["rev"]
            if not payload["deleted"]:
                living[node] = vector
        ids = np.fromiter(living, np.uint64, len(living))
        self._mirror.restore(ids, np.array(list(living.values()), np.float32).reshape(-1, self.dim), revisions)
        return damaged

    def _write(self, ids: U64s, vectors: F32s, revision: int, *, deleted: bool) -> None:
        if self.closed:
            raise VectorsLocked(f"{self._path} was closed here; open the generation again")
        require_free(self._path, self._free_bytes_min)
        # A number, because the binding of this version reads MatchValue(True) as the number 1, which matches no boolean.
        mark = int(deleted)
        points = [
            engine.Point(node, row.tolist(), {"rev": revision, "deleted": mark, "sum": _checksum(node, row, revision, mark)})
            for node, row in zip(ids.tolist(), vectors, strict=True)
        ]
        newer = engine.Filter(must=[engine.FieldCondition("rev", range=engine.RangeFloat(lt=float(revision)))])
        with _engine_speaks(self._path):
            self._shard.update(engine.UpdateOperation.upsert_points(points, newer))
            self._unflushed += len(points)
            if self._unflushed >= UNFLUSHED_MAX:
                self._shard.flush()
                self._unflushed = 0

    def _search_engine(self, queries: F32s, k: int, exclude: U64s | None) -> tuple[U64s, F32s]:
        unwanted = np.zeros(0, np.uint64) if exclude is None else exclude
        hidden: list[engine.ConditionType] = [engine.FieldCondition("deleted", match=engine.MatchValue(1))]
        if len(unwanted):
            hidden.append(engine.HasIdCondition(set(unwanted.tolist())))
        found: list[tuple[U64s, F32s]] = []
        for query in queries.tolist():
            # The filter triples the engine's work (10 ms for 100,000 points), asking for some more than k adds next to nothing.
            limit = k + len(unwanted)
            ids, scores = self._ask(query, limit, None)
            kept = self._mirror.get(ids)[1] & ~np.isin(ids, unwanted)
            if len(ids) == limit and kept.sum() < k:
                ids, scores = self._ask(query, k, engine.Filter(must_not=hidden))
                kept = self._mirror.get(ids)[1]
            found.append(best(scores[kept], ids[kept], k))
        return padded(found, k)

    def _ask(self, query: list[float], limit: int, condition: engine.Filter | None) -> tuple[U64s, F32s]:
        request = engine.QueryRequest(limit=limit, query=engine.Query.Nearest(query), filter=condition)
        with _engine_speaks(self._path):
            points = self._shard.query(request)
        ids = np.array([cast(int, point.id) for point in points], dtype=np.uint64)
        return ids, np.array([point.score for point in points], dtype=np.float32)


class VectorFolder:
    """`Collections` in one folder: a sub-folder per generation. Opening a generation twice gives the same object."""

    def __init__(self, folder: Path, *, exact_max: int = EXACT_MAX, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        self._folder, self._exact_max, self._free_bytes_min = folder, exact_max, free_bytes_min
        self._opened: dict[int, EdgeVectors] = {}
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def open(self, generation: int, dim: int) -> EdgeVectors:
        """The generation's collection; see `EdgeVectors` for what can go wrong."""
        known = self._opened.get(generation)
        if known is None or known.closed:
            path = self._folder / collection_of(generation)
            known = EdgeVectors(path, dim, exact_max=self._exact_max, free_bytes_min=self._free_bytes_min)
            self._opened[generation] = known
        if known.dim != dim:
            raise ValueError(f"generation {generation} holds vectors of {known.dim}, asked for {dim}: another dim is another generation")
        return known

    def generations(self) -> list[int]:
        """Generations on disk, ascending."""
        numbers = (generation_of(path.name) for path in self._folder.iterdir() if path.is_dir())
        return sorted(number for number in numbers if number is not None)

    def drop(self, generation: int) -> None:
        """Close it if it is open here, then remove it. `VectorsLocked` if another process holds it."""
        known = self._opened.pop(generation, None)
        if known is not None:
            known.close()
        path = self._folder / collection_of(generation)
        lock = _lock(path)
        try:
            if path.exists():
                remove_folder(path)
            _lock_file(path).unlink()
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close every collection opened here."""
        for vectors in self._opened.values():
            vectors.close()
        self._opened.clear()


def _create(path: Path, dim: int) -> None:
    shard = engine.EdgeShard.create(str(path), engine.EdgeConfig(vectors=engine.EdgeVectorParams(dim, engine.Distance.Dot)))
    shard.update(engine.UpdateOperation.create_field_index("deleted", engine.PayloadSchemaType.Integer))
    shard.flush()
    shard.close()


def _checksum(node: int, vector: F32s, revision: object, deleted: object) -> int:
    """The engine keeps no checksums: a flipped bit in a vector would be served for ever."""
    return zlib.crc32(vector.tobytes(), zlib.crc32(f"{node} {revision} {deleted}".encode()))


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> int:
    lock = take_lock(_lock_file(path))
    if lock is None:
        holder = _lock_file(path).read_text() or "unknown"
        raise VectorsLocked(
            f"{path} is open in process {holder}: one process holds a collection at a time. "
            f"Stop that process, talk to it over HTTP (--url), or use another data folder."
        )
    return lock


@contextmanager
def _engine_speaks(path: Path) -> Iterator[None]:
    """The engine raises bare Exception, and its panics only BaseException: give both a name and a way out."""
    try:
        yield
    except (OSError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if "WouldBlock" in str(error):
            raise VectorsLocked(f"{path} is open in another process: stop it, or use another data folder") from error
        way_out = "Vectors are derived data: drop the generation and refresh"
        raise VectorsDamaged(f"the vector engine failed on {path}: {error}. {way_out}") from error
