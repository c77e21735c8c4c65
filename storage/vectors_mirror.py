"""The exact in-memory mirror of a collection: always fresh, no index to rebuild, and readable while it is written.

Rows are only ever appended; an update appends the new row and lists the old one as dead. Readers take one immutable
snapshot under a short lock and compute outside it, so they see every batch whole or not at all, and no torn row. When a
quarter is dead, or the room is used up, the living rows move to new arrays.

    mirror = Mirror(dim=64)
    mirror.put(ids, rows, revision)
"""

import threading
from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.arrays import Bools, F32s, I64s, U64s
from storage.vectors import SEARCH_CELLS_MAX, best, padded, parts

_ROOM_MIN: Final = 1024
_DEAD_MIN: Final = 256


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows [0, N) as they will stay for ever: ids (N,), matrix (N, D), and which rows no longer count."""

    ids: U64s
    matrix: F32s
    dead: I64s


class Mirror:
    """Item id -> row, revision and tombstone. Memory: about (1 to 2.5) x N x D x 4 bytes and 200 bytes per id."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._ids: U64s = np.zeros(_ROOM_MIN, np.uint64)
        self._matrix: F32s = np.zeros((_ROOM_MIN, dim), np.float32)
        self._row_of: dict[int, int] = {}
        self._revisions: dict[int, int] = {}
        self._snapshot = self._view(0, np.zeros(0, np.int64))
        self.revision_max = 0

    @classmethod
    def over(cls, ids: U64s, matrix: F32s, revision: int) -> "Mirror":
        """Of distinct ids and their rows as they lie there; they must not change, and this mirror does not change them."""
        mirror = cls(matrix.shape[1])
        mirror._ids, mirror._matrix = ids, matrix
        mirror._row_of = {node: row for row, node in enumerate(ids.tolist())}
        mirror._snapshot = mirror._view(len(ids), np.zeros(0, np.int64))
        mirror._note(dict.fromkeys(mirror._row_of, revision))
        return mirror

    def __len__(self) -> int:
        return len(self._row_of)

    def put(self, ids: U64s, vectors: F32s, revision: int) -> None:
        """Append distinct ids that are new or stored at a lower revision; all of them become visible together."""
        with self._writing:
            fresh = self._older_than(ids, revision)
            self._append(ids[fresh], vectors[fresh])
            self._note(dict.fromkeys(ids[fresh].tolist(), revision))

    def restore(self, ids: U64s, vectors: F32s, revisions: dict[int, int]) -> None:
        """Take over what a store holds: living rows of ids not here yet, and the revisions of them and of tombstones."""
        with self._writing:
            self._append(ids, vectors)
            self._note(revisions)

    def bury(self, ids: U64s, revision: int) -> None:
        """Tombstones for distinct ids that are new or stored at a lower revision."""
        with self._writing:
            nodes = ids[self._older_than(ids, revision)].tolist()
            with self._reading:
                replaced = [self._row_of.pop(node) for node in nodes if node in self._row_of]
                self._snapshot = self._view(len(self._snapshot.ids), _joined(self._snapshot.dead, replaced))
            self._note(dict.fromkeys(nodes, revision))

    def get(self, ids: U64s) -> tuple[F32s, Bools]:
        """Rows (B, D), zeros where there is none, and which were found (B,). About 15 us for 128 ids of 64."""
        nodes = ids.tolist()
        with self._reading:
            matrix, row_of = self._matrix, self._row_of
            rows = np.array([row_of.get(node, -1) for node in nodes], dtype=np.int64)
        found = rows >= 0
        vectors = matrix[rows]
        vectors[~found] = 0.0
        return vectors, found

    def matrix(self) -> tuple[U64s, F32s]:
        """All living rows, dense and read-only: ids (N,) and matrix (N, D), consistent for as long as they are held.

        After changes that replaced rows the first call moves the living ones together (20 ms for 100,000 x 64); the next is free.
        """
        with self._writing:
            if len(self._snapshot.dead):
                self._move(len(self._ids))
            return self._snapshot.ids, self._snapshot.matrix

    def search(self, queries: F32s, k: int, exclude: U64s | None) -> tuple[U64s, F32s]:
        """Exact top k by inner product; see `Vectors.search`. One pass over the matrix per query, or per block of queries."""
        unwanted = [] if exclude is None else exclude.tolist()
        with self._reading:
            snapshot, row_of = self._snapshot, self._row_of
            excluded = [row_of[node] for node in unwanted if node in row_of]
        hidden = _joined(snapshot.dead, excluded)
        found: list[tuple[U64s, F32s]] = []
        for part in parts(len(queries), max(1, SEARCH_CELLS_MAX // max(1, len(snapshot.ids)))):
            block = queries[part]
            # One query is a matrix-vector product, about 1.5 times faster than the general form with one column.
            scores = (snapshot.matrix @ block[0])[None, :] if len(block) == 1 else block @ snapshot.matrix.T  # (B, N)
            scores[:, hidden] = -np.inf
            found += [best(row, snapshot.ids, k) for row in scores]
        return padded(found, k)

    def _older_than(self, ids: U64s, revision: int) -> list[int]:
        stored = self._revisions
        return [position for position, node in enumerate(ids.tolist()) if stored.get(node, 0) < revision]

    def _append(self, ids: U64s, vectors: F32s) -> None:
        if not len(ids):
            return
        self._make_room(len(ids))
        start = len(self._snapshot.ids)
        stop = start + len(ids)
        self._ids[start:stop], self._matrix[start:stop] = ids, vectors
        nodes = ids.tolist()
        assert len(set(nodes)) == len(nodes), "distinct ids: see check_batch"
        with self._reading:
            replaced = [self._row_of[node] for node in nodes if node in self._row_of]
            self._row_of.update(zip(nodes, range(start, stop), strict=True))
            self._snapshot = self._view(stop, _joined(self._snapshot.dead, replaced))

    def _note(self, revisions: dict[int, int]) -> None:
        self._revisions.update(revisions)
        self.revision_max = max(self.revision_max, max(revisions.values(), default=0))

    def _make_room(self, count: int) -> None:
        used, dead, room = len(self._snapshot.ids), len(self._snapshot.dead), len(self._ids)
        wanted = used - dead + count
        if used + count > room:
            # Doubling only when living rows need it: else the room freed by the dead is enough for long.
            self._move(room if 2 * wanted <= room else max(2 * room, 2 * wanted))
        elif dead > max(_DEAD_MIN, used // 4):
            self._move(room)

    def _move(self, room: int) -> None:
        old = self._snapshot
        living = np.ones(len(old.ids), np.bool_)
        living[old.dead] = False
        rows = np.flatnonzero(living)
        count = len(rows)
        ids, matrix = np.empty(room, np.uint64), np.empty((room, self._dim), np.float32)
        # "clip" only spares the copy that numpy's bounds check would make: every row is inside.
        np.take(old.ids, rows, out=ids[:count], mode="clip")
        np.take(old.matrix, rows, axis=0, out=matrix[:count], mode="clip")
        row_of = {node: row for row, node in enumerate(ids[:count].tolist())}
        with self._reading:
            self._ids, self._matrix, self._row_of = ids, matrix, row_of
            self._snapshot = self._view(count, np.zeros(0, np.int64))

    def _view(self, count: int, dead: I64s) -> Snapshot:
        ids, matrix = self._ids[:count], self._matrix[:count]
        ids.flags.writeable = matrix.flags.writeable = False
        return Snapshot(ids, matrix, dead)


def _joined(rows: I64s, more: list[int]) -> I64s:
    return np.concatenate([rows, np.array(more, dtype=np.int64)]) if more else rows
