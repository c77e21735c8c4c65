"""State: keyed blobs with a watermark, changed only by one atomic commit that compares and sets.

What lives here knows nothing of events; `storage/histories.py` and its siblings say what the blobs mean. A partition is
owned by whoever claimed it last: a claim raises its epoch, and a commit under an older epoch is refused.

    claim = state.claim("events", 0, log.topic_id("events"))
    state.commit([Advance(claim, before=claim.watermark, after=42)], [Write(HISTORIES, 0, ids, blobs)])
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from storage.arrays import U64s

HISTORIES: Final = "histories"
SEEN: Final = "seen"
COUNTS: Final = "counts"
NEIGHBOURS: Final = "neighbours"
NODES: Final = "nodes"
DIRTY: Final = "dirty"
EMBEDDED: Final = "embedded"
NAMES: Final = "names"
TALLIES: Final = "tallies"
UPSTREAM: Final = "upstream"
ORDERS: Final = "orders"
TABLES: Final = (HISTORIES, SEEN, COUNTS, NEIGHBOURS, NODES, DIRTY, EMBEDDED, NAMES, TALLIES, UPSTREAM, ORDERS)
DIGESTED: Final = (HISTORIES, SEEN, COUNTS, NEIGHBOURS)


class Fenced(RuntimeError):
    """Someone else claimed the partition since: drop the batch and every cache of it, then claim again if it is still ours."""


class WatermarkMoved(RuntimeError):
    """The stored watermark is not the one this batch started from: nothing was written."""


class Gap(RuntimeError):
    """The log no longer holds what comes after the watermark, or is not the log that was read."""


class ShapeChanged(RuntimeError):
    """The state was built with other settings (bounds, half-lives, partitions); the message names them and the way out."""


@dataclass(frozen=True)
class Claim:
    """The right to write one partition of one stream, until somebody claims it again. `watermark` = next offset to apply."""

    stream: str
    partition: int
    epoch: int
    watermark: int
    topic_id: str
    incarnation: int


@dataclass(frozen=True)
class Advance:
    """Move one watermark from `before` (must be the stored one) to `after`.

    `likings` (N, 3), user, item and time in ms, is passed on to who follows commits (`storage/changes_redis.py`), and not stored.
    """

    claim: Claim
    before: int
    after: int
    likings: U64s = field(default_factory=lambda: np.empty((0, 3), np.uint64), compare=False)


@dataclass(frozen=True)
class Write:
    """New blobs of one table and partition, one per id; None deletes."""

    table: str
    partition: int
    ids: U64s
    values: Sequence[bytes | memoryview | None]


Commit = tuple[Sequence[Advance], Sequence[Write]]
Refusal = Fenced | WatermarkMoved


@dataclass(frozen=True)
class Newest:
    """A row of NODES that is written only over an older one: `order` is compared; `mark` is its dirty mark, None without one."""

    id: int
    order: tuple[int, int]
    value: bytes
    mark: bytes | None


class State(Protocol):
    """Read after commit sees all of it; a commit is all or nothing, also when the process dies in the middle."""

    def shape(self, wanted: dict[str, str | int | float]) -> None:
        """Store what shapes the state on first use; later raise `ShapeChanged` if any value differs."""

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """Raise the partition's epoch and return it with the watermark. A new topic id raises `Gap` unless it is the first."""

    def accept(self, stream: str, partition: int, topic_id: str, watermark: int) -> None:
        """Accept, on record, that the stream goes on at `watermark` of `topic_id`; a new id gets the next incarnation. Raises the epoch."""

    def topic_id(self, stream: str, partition: int) -> str:
        """The topic id the partition follows; "" before the first claim."""

    def watermarks(self, stream: str) -> dict[int, int]:
        """Next offset to apply, by partition."""

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """Blobs in the order asked; None where there is none."""

    def read_many(self, asked: Sequence[tuple[str, int, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
        """Several reads, (table, partition, ids) each, at once: what `read` would give, in one transaction or round trip.

        `at`, (claim, watermark) each: raises `Fenced`, `WatermarkMoved` unless that is what was read.
        """

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """Compare epochs and watermarks, then write everything at once. Raises `Fenced`, `WatermarkMoved`."""

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """What `commit` would do for each by itself, at once: why it was refused, or None. The others go on."""

    def clear(self, table: str, partition: int, ids: U64s, blobs: Sequence[bytes]) -> None:
        """Remove the rows that still hold these blobs, compared in the removal; of others nothing is changed."""

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """All (id, blob) of a table's partition with id >= `start`, by ascending id, as of now."""

    def close(self) -> None:
        """Flush and release; a clean close is noted."""


def check_shape(stored: dict[str, str | int | float], wanted: dict[str, str | int | float]) -> None:
    """Raise `ShapeChanged` naming every difference and the way out."""
    differing = [
        f"{name}: stored {stored.get(name)!r}, asked {wanted.get(name)!r}"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]
    if differing:
        raise ShapeChanged(
            f"this state was built with other settings ({'; '.join(differing)}). Start with the old ones, or rebuild: freshet rebuild"
        )


def check_topic(stored: str, found: str, stream: str, partition: int) -> None:
    """Raise `Gap` when the log is not the one that was read."""
    if stored not in ("", found):
        raise Gap(
            f"partition {partition} of {stream!r} was read from topic id {stored}, the log now has {found}. "
            "Rebuild from the archive (freshet rebuild), or accept the loss on record (freshet gap accept)."
        )


def tried(commit: Callable[[Sequence[Advance], Sequence[Write]], None], one: Commit) -> Refusal | None:
    """Why it was refused, or None."""
    try:
        commit(*one)
    except (Fenced, WatermarkMoved) as refusal:
        return refusal
    return None


def refusal(claim: Claim, before: int, *, epoch: int, watermark: int) -> Refusal | None:
    """Why a batch that began at `before` under this claim counts for nothing; None while that is how things stand."""
    if epoch != claim.epoch:
        return Fenced(f"partition {claim.partition} of {claim.stream!r} is at epoch {epoch}, this claim is of {claim.epoch}")
    if watermark != before:
        return WatermarkMoved(f"partition {claim.partition} of {claim.stream!r} stands at {watermark}, the batch began at {before}")
    return None


def check_claim(claim: Claim, before: int, *, epoch: int, watermark: int) -> None:
    """Raise unless the claim is the latest and the watermark is where the batch began."""
    refused = refusal(claim, before, epoch=epoch, watermark=watermark)
    if refused is not None:
        raise refused
