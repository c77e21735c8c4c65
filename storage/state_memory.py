"""State in memory: the same rules without a disk, for replays, evaluations and tests."""

from collections.abc import Iterator, Sequence

from storage.arrays import U64s
from storage.state import TABLES, Advance, Claim, Commit, Refusal, Write, check_claim, check_shape, check_topic, tried


class MemoryState:
    """A dictionary per table and partition; commits compare and set as everywhere."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], dict[int, bytes]] = {}
        self._streams: dict[tuple[str, int], tuple[int, int, str, int]] = {}
        self._shape: dict[str, str | int | float] | None = None

    def shape(self, wanted: dict[str, str | int | float]) -> None:
        """Store on first use, compare later."""
        self._shape = self._shape or dict(wanted)
        check_shape(self._shape, wanted)

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """Raise the epoch; another topic id raises `Gap`."""
        epoch, watermark, stored, incarnation = self._streams.get((stream, partition), (0, 0, "", 0))
        check_topic(stored, topic_id, stream, partition)
        self._streams[stream, partition] = (epoch + 1, watermark, topic_id, incarnation)
        return Claim(stream, partition, epoch + 1, watermark, topic_id, incarnation)

    def accept(self, stream: str, partition: int, topic_id: str, watermark: int) -> None:
        """Go on at `watermark`; a new topic id gets the next incarnation. Fences whoever still reads the old topic."""
        epoch, _, stored, incarnation = self._streams.get((stream, partition), (0, 0, "", 0))
        self._streams[stream, partition] = (epoch + 1, watermark, topic_id, incarnation + (stored not in ("", topic_id)))

    def topic_id(self, stream: str, partition: int) -> str:
        """The topic id the partition follows; "" before the first claim."""
        return self._streams.get((stream, partition), (0, 0, "", 0))[2]

    def watermarks(self, stream: str) -> dict[int, int]:
        """Next offset to apply, by partition."""
        return {partition: held[1] for (name, partition), held in self._streams.items() if name == stream}

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """Blobs in the order asked."""
        rows = self._tables.get((table, partition), {})
        return [rows.get(key) for key in ids.tolist()]

    def read_many(self, asked: Sequence[tuple[str, int, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
        """Several reads."""
        for claim, watermark in at:
            self._check(claim, watermark)
        return [self.read(*one) for one in asked]

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """Compare all, then write all."""
        for advance in advances:
            self._check(advance.claim, advance.before)
        for advance in advances:
            key = (advance.claim.stream, advance.claim.partition)
            epoch, _, stored, incarnation = self._streams[key]
            self._streams[key] = (epoch, advance.after, stored, incarnation)
        for write in writes:
            assert write.table in TABLES, write.table
            rows = self._tables.setdefault((write.table, write.partition), {})
            for key_id, value in zip(write.ids.tolist(), write.values, strict=True):
                if value is None:
                    rows.pop(key_id, None)
                else:
                    rows[key_id] = bytes(value)

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """One after the other."""
        return [tried(self.commit, one) for one in commits]

    def clear(self, table: str, partition: int, ids: U64s, blobs: Sequence[bytes]) -> None:
        """Compare each, remove it."""
        rows = self._tables.get((table, partition), {})
        for key, blob in zip(ids.tolist(), blobs, strict=True):
            if rows.get(key) == blob:
                del rows[key]

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """All (id, blob) with id >= `start` by ascending id, as of now."""
        yield from sorted(row for row in self._tables.get((table, partition), {}).items() if row[0] >= start)

    def close(self) -> None:
        """Nothing to release."""

    def _check(self, claim: Claim, before: int) -> None:
        epoch, watermark, _, _ = self._streams.get((claim.stream, claim.partition), (0, 0, "", 0))
        check_claim(claim, before, epoch=epoch, watermark=watermark)
