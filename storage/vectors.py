"""Vectors of items: what every implementation promises, and the rules they share.

A vector is replaced only by one of a later revision, and a deleted item stays away until a later revision brings it back.
One collection holds one generation's space. Nothing here stores anything: `vectors_edge.py` and `vectors_local.py` do.

    vectors = VectorFolder(folder).open(generation=1, dim=64)
    vectors.upsert(ids, rows, revision=revision(epoch, number))
    found, scores = vectors.search(queries, 10, exclude=seen)
"""

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from storage.arrays import Bools, F32s, U64s

UPSERT_MAX: Final = 256
"""Points per request to an engine: qdrant-edge holds the GIL meanwhile (about 3 ms)."""
SEARCH_CELLS_MAX: Final = 4_000_000
"""Scores computed at once, which bounds the memory of a batched search to 16 MB."""
REVISION_END: Final = 2**53
"""Revisions are compared as doubles by the engine's filter; below this every integer is one."""
_PREFIX: Final = "items-g"


class VectorsLocked(RuntimeError):
    """The collection is open elsewhere: one process writes it."""


class VectorsDamaged(RuntimeError):
    """The engine cannot read or write its files. Vectors are derived data: drop the collection and refresh all items."""


class Vectors(Protocol):
    """One collection. Scores are inner products: cosines when rows and queries are of unit length, which is not enforced.

    D = `dim`. Arguments are checked before anything is written: ValueError for another width, a value that is not finite,
    ids that are not uint64 or are 0 ("none"), and a revision outside 1 <= R < 2^53.
    """

    dim: int
    collection: str

    def upsert(self, ids: U64s, vectors: F32s, *, revision: int) -> None:
        """Store rows (B, D) whose stored revision is below `revision` (or that are new); others stay as they are.

        Of an id given twice the last row counts. Written in parts of 256, each visible at once; after an error the same
        call may be repeated. Effect once per revision: a repeated or late write changes nothing.
        """

    def delete(self, ids: U64s, *, revision: int) -> None:
        """Leave a tombstone, also for an id never stored: not found by `get` and `search`, revived only by a later revision.

        The vector itself is overwritten with zeros. Items stored at `revision` or above stay.
        """

    def get(self, ids: U64s) -> tuple[F32s, Bools]:
        """Rows (B, D), zeros where there is none, and which were found (B,)."""

    def search(self, queries: F32s, k: int, *, exclude: U64s | None = None) -> tuple[U64s, F32s]:
        """The k best ids (B, k) and scores (B, k) per query (B, D), by falling score, ties by ascending id; padded 0 / -inf.

        `exclude` holds for every query of the batch.
        """

    def revision_max(self) -> int:
        """The highest revision stored, tombstones included; 0 when empty. A refresher's claim starts above it."""

    def __len__(self) -> int:
        """Items that can be found."""

    def flush(self) -> None:
        """Return when everything written survives the death of the process."""

    def close(self) -> None:
        """Flush and release; twice is once."""


class Collections(Protocol):
    """The collections of one place, one per generation."""

    def open(self, generation: int, dim: int) -> Vectors:
        """The generation's collection, made if need be. ValueError if it holds another width."""

    def generations(self) -> list[int]:
        """Generations that have a collection, ascending."""

    def drop(self, generation: int) -> None:
        """Remove a collection for good; one that is not there is fine."""

    def close(self) -> None:
        """Close what was opened here."""


def collection_of(generation: int) -> str:
    """The collection's name.

    >>> collection_of(3), generation_of("items-g3"), generation_of("other")
    ('items-g3', 3, None)
    """
    return f"{_PREFIX}{generation}"


def generation_of(collection: str) -> int | None:
    """The generation a collection's name says, None for a foreign name."""
    number = collection.removeprefix(_PREFIX)
    return int(number) if number != collection and number.isdecimal() else None


def revision(epoch: int, number: int) -> int:
    """R = epoch * 2^32 + number: the batch `number` of a refresher that holds `epoch`; later claims beat earlier ones.

    >>> revision(2, 0) > revision(1, 2**32 - 1)
    True
    """
    if not (0 <= number < 2**32 and 0 <= epoch < 2**21 and epoch + number > 0):
        raise ValueError(f"epoch {epoch}, batch number {number}: need 0 <= epoch < 2^21, 0 <= number < 2^32, not both 0; claim a new epoch")
    return epoch * 2**32 + number


def check_revision(value: int) -> None:
    """ValueError unless 1 <= value < 2^53."""
    if not 1 <= value < REVISION_END:
        raise ValueError(f"revision {value} is outside 1 <= revision < 2^53")


def check_ids(ids: U64s) -> None:
    """ValueError unless ids are a uint64 vector without 0."""
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise ValueError(f"ids are {ids.dtype} of shape {ids.shape}; needed is uint64 of shape (B,): other types lose high ids")
    if not ids.all():
        raise ValueError(f'id 0 at position {int(np.flatnonzero(ids == 0)[0])}: 0 means "none" and cannot be stored')


def check_rows(rows: F32s, dim: int, what: str) -> F32s:
    """Rows as float32 (B, dim), contiguous; ValueError for another width or a value that is not finite."""
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"{what} have shape {rows.shape}; this collection holds rows of {dim}: (B, {dim})")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(f"{what} hold NaN or infinity in row {int(np.flatnonzero(~finite)[0])}; nothing was written")
    return rows


def check_batch(ids: U64s, vectors: F32s, dim: int) -> tuple[U64s, F32s]:
    """A checked batch in which every id is there once: of an id given twice the last row."""
    check_ids(ids)
    rows = check_rows(vectors, dim, "vectors")
    if len(rows) != len(ids):
        raise ValueError(f"{len(ids)} ids and {len(rows)} vectors: one row per id is needed")
    kept = last_of_each(ids)
    return ids[kept], rows[kept]


def last_of_each(ids: U64s) -> slice | list[int]:
    """Which positions to keep so that every id is there once, the last time it occurs."""
    last = {node: position for position, node in enumerate(ids.tolist())}
    return slice(None) if len(last) == len(ids) else sorted(last.values())


def check_search(queries: F32s, k: int, dim: int) -> F32s:
    """Checked queries (B, dim); ValueError for k < 1."""
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    return check_rows(queries, dim, "queries")


def best(scores: F32s, ids: U64s, k: int) -> tuple[U64s, F32s]:
    """The k best of one row of scores (N,), exactly: falling score, ties by ascending id, -inf left out. O(N)."""
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= threshold)
        scores, ids = scores[rows], ids[rows]
    order = np.lexsort((ids, -scores))[:k]
    order = order[scores[order] > -np.inf]
    return ids[order], scores[order]


def padded(found: list[tuple[U64s, F32s]], k: int) -> tuple[U64s, F32s]:
    """Rows of unequal length as (B, k), padded with id 0 and score -inf."""
    ids, scores = np.zeros((len(found), k), np.uint64), np.full((len(found), k), -np.inf, np.float32)
    for row, (some, their) in enumerate(found):
        ids[row, : len(some)], scores[row, : len(some)] = some, their
    return ids, scores


def parts(count: int, size: int = UPSERT_MAX) -> Iterator[slice]:
    """Slices that cut `count` rows into parts of at most `size`."""
    return (slice(start, start + size) for start in range(0, count, size))
