"""Vectors in memory alone: the mirror without an engine behind it, for replays and evaluations.

vectors = MemoryVectors(64, collection="items-g1"); vectors.upsert(ids, rows, revision=1)
"""

import numpy as np

from storage.arrays import Bools, F32s, U64s
from storage.vectors import check_batch, check_ids, check_revision, check_search
from storage.vectors_mirror import Mirror


class MemoryVectors:
    """The contract of `storage.vectors.Vectors`; nothing survives the process."""

    def __init__(self, dim: int, *, collection: str) -> None:
        self.dim, self.collection = dim, collection
        self._mirror = Mirror(dim)

    @classmethod
    def over(cls, ids: U64s, matrix: F32s, *, collection: str) -> "MemoryVectors":
        """What another collection's `matrix` gave, as it is now: nothing is copied."""
        vectors = cls(matrix.shape[1], collection=collection)
        vectors._mirror = Mirror.over(ids, matrix, revision=1)
        return vectors

    def __len__(self) -> int:
        return len(self._mirror)

    def upsert(self, ids: U64s, vectors: F32s, *, revision: int) -> None:
        """Newer wins."""
        check_revision(revision)
        self._mirror.put(*check_batch(ids, vectors, self.dim), revision)

    def delete(self, ids: U64s, *, revision: int) -> None:
        """Leave tombstones."""
        check_revision(revision)
        check_ids(ids)
        self._mirror.bury(np.unique(ids), revision)

    def get(self, ids: U64s) -> tuple[F32s, Bools]:
        """Rows (B, D) and which were found (B,)."""
        return self._mirror.get(ids)

    def matrix(self) -> tuple[U64s, F32s]:
        """Ids (N,) and rows (N, D)."""
        return self._mirror.matrix()

    def search(self, queries: F32s, k: int, *, exclude: U64s | None = None) -> tuple[U64s, F32s]:
        """Exact top k by inner product."""
        return self._mirror.search(check_search(queries, k, self.dim), k, exclude)

    def revision_max(self) -> int:
        """The highest revision stored."""
        return self._mirror.revision_max

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to release."""
