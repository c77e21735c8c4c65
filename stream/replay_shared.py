"""Replay in a cluster: each partition by itself, from the archive and then from Kafka, whatever incarnation its offsets are of.

Kafka numbers each partition by itself, and nothing of one partition's histories, seen-sets and counts depends on another's;
so partitions are replayed one after the other. Ids that are derived from where a record landed name its incarnation, which
is why a claim says the one of the records, not the newest.

    source = shared_history(archive, log, {0: Upto(incarnation=0, below=120)}); replay_shared(source, MemoryState(), log, shape, now_ms=0)
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from storage.archive import Archive
from storage.arrays import U64s
from storage.log import Entry, Log, Position, Record, Topic
from storage.names import Names
from storage.state import Advance, Claim, Commit, Gap, Refusal, State, Write
from stream.archiving import from_archive
from stream.connecting import Arrived, Connecting
from stream.deadletters import DEAD_LETTERS, DeadLetter
from stream.deadletters import decode as decode_letter
from stream.edges import EDGES
from stream.ingest import EVENTS, Ingest
from stream.shape import Shape
from stream.wire import Decoded, decode

ROWS_AT_ONCE: Final = 32_768
RECORDS_AT_ONCE: Final = 512
"""Of the log: each may be a pack of hundreds."""
_NO_END: Final = 1 << 62


@dataclass(frozen=True)
class Upto:
    """Where a partition's replay ends: at offset `below`, exclusive, of `incarnation`; earlier incarnations come whole."""

    incarnation: int
    below: int


@dataclass(frozen=True)
class Span:
    """Offsets [first, end) of a partition's incarnation that the state never had; `end` None: all from `first` on."""

    partition: int
    incarnation: int
    first: int
    end: int | None


def shared_history(archive: Archive, log: Log, upto: Mapping[int, Upto], skipped: Sequence[Span] = ()) -> Iterator[tuple[int, Decoded]]:
    """(incarnation, events of one partition), in order within each. Raises `Gap` at once for offsets that neither holds."""
    ends: dict[tuple[int, int], int] = {}
    for part in archive.parts():
        ends[part.incarnation, part.partition] = max(part.end, ends.get((part.incarnation, part.partition), 0))
    for partition, to in upto.items():
        _check_whole(ends, log, partition, to, [span for span in skipped if span.partition == partition])
    rest = (_logged(log, p, to, ends.get((to.incarnation, p), 0), skipped) for p, to in upto.items())
    return itertools.chain(_archived(archive, upto, skipped), *rest)


def _check_whole(ends: Mapping[tuple[int, int], int], log: Log, partition: int, to: Upto, skipped: Sequence[Span]) -> None:
    way_out = "restore the archive, or go on without them, on record (freshet gap accept)"
    for span in skipped:
        archived = ends.get((span.incarnation, partition), 0)
        if span.end is None and archived < span.first:
            raise Gap(
                f"partition {partition} of an earlier {EVENTS!r} (incarnation {span.incarnation}) was applied up to offset {span.first}, "
                f"and is archived up to {archived}: {way_out}"
            )
    archived, first = ends.get((to.incarnation, partition), 0), log.first_offset(EVENTS, partition)
    lost = any(span.incarnation == to.incarnation and span.first <= archived and (span.end or _NO_END) >= first for span in skipped)
    if archived < min(first, to.below) and not lost:
        raise Gap(f"offsets {archived}..{first - 1} of partition {partition} are neither in the archive nor in the log: {way_out}")


def _archived(archive: Archive, upto: Mapping[int, Upto], skipped: Sequence[Span]) -> Iterator[tuple[int, Decoded]]:
    for incarnation, rows in archive.rolls():
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        for partition, to in upto.items():
            if incarnation > to.incarnation:
                continue
            wanted = partitions == partition
            if incarnation == to.incarnation:
                wanted &= offsets < to.below
            for span in skipped:
                if (span.partition, span.incarnation) == (partition, incarnation):
                    wanted &= (offsets < span.first) | (offsets >= (span.end or _NO_END))
            here = np.flatnonzero(wanted)
            for begin in range(0, len(here), ROWS_AT_ONCE):
                yield incarnation, from_archive(rows.take(pa.array(here[begin : begin + ROWS_AT_ONCE])))


def _logged(log: Log, partition: int, to: Upto, archived: int, skipped: Sequence[Span]) -> Iterator[tuple[int, Decoded]]:
    spans = [span for span in skipped if (span.partition, span.incarnation) == (partition, to.incarnation)]
    offset = max(archived, log.first_offset(EVENTS, partition))
    while offset < to.below and (records := log.read(EVENTS, partition, offset, records_max=RECORDS_AT_ONCE)):
        offset = records[-1].offset + 1
        records = [r for r in records if r.offset < to.below and not any(s.first <= r.offset < (s.end or _NO_END) for s in spans)]
        if records:
            yield to.incarnation, decode(records)


def replay_shared(  # noqa: PLR0913  # from where, to where, and how
    source: Iterator[tuple[int, Decoded]], state: State, log: Log, shape: Shape, *, now_ms: int, edges_apart: bool = True,
    edges_log: Log | None = None, applied: Mapping[int, Upto] | None = None, told: Callable[[int], None] = lambda events: None,
) -> int:  # fmt: skip
    """Apply everything to an empty state; returns how many events there were. Dead letters are counted.

    With `edges_log` edges are appended there, before the commit of what made them; else they are dropped, or without
    `edges_apart` applied to the neighbours at once. With `applied` so are dead letters of what no state had applied yet; those
    of the rest were sent then.
    """
    claims = _Claims(state)
    ingest = Ingest(
        claims, _SideOutputs(edges_log or log, applied), shape, names=Names(state), replaying=edges_log is None, edges_apart=edges_apart
    )  # fmt: skip
    claimed: dict[int, int] = {}
    events = 0
    for incarnation, decoded in source:
        partition = decoded.records[0].partition
        if claimed.get(partition) != incarnation:
            claims.incarnation = claimed[partition] = incarnation
            ingest.claim_partition(partition)
        ingest.apply_decoded(decoded, now_ms=now_ms)
        events += len(decoded)
        told(len(decoded))
    return events


def replay_edges(log: Log, state: State, shape: Shape, below: Mapping[int, int]) -> int:
    """Apply each partition of `edges` from its first record to offset `below`, exclusive; returns how many edges counted."""
    connecting = Connecting(state, log, shape, replaying=True)
    edges = 0
    for partition, end in below.items():
        connecting.claim_partition(partition)
        offset = log.first_offset(EDGES, partition)
        while offset < end and (records := log.read(EDGES, partition, offset, records_max=RECORDS_AT_ONCE)):
            offset = records[-1].offset + 1
            (counted,) = connecting.apply_each([Arrived(partition, [record for record in records if record.offset < end])])
            if isinstance(counted, Exception):
                raise counted
            edges += counted
    return edges


class _Claims:
    """A state whose claims say the incarnation that is being replayed."""

    def __init__(self, state: State) -> None:
        self._state, self.incarnation = state, 0

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """The state's, of another incarnation."""
        return replace(self._state.claim(stream, partition, topic_id), incarnation=self.incarnation)

    def shape(self, wanted: dict[str, str | int | float]) -> None:
        """The state's."""
        self._state.shape(wanted)

    def accept(self, stream: str, partition: int, topic_id: str, watermark: int) -> None:
        """The state's."""
        self._state.accept(stream, partition, topic_id, watermark)

    def topic_id(self, stream: str, partition: int) -> str:
        """The state's."""
        return self._state.topic_id(stream, partition)

    def watermarks(self, stream: str) -> dict[int, int]:
        """The state's."""
        return self._state.watermarks(stream)

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """The state's."""
        return self._state.read(table, partition, ids)

    def read_many(self, asked: Sequence[tuple[str, int, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
        """The state's."""
        return self._state.read_many(asked, at=at)

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """The state's."""
        self._state.commit(advances, writes)

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """The state's."""
        return self._state.commit_each(commits)

    def clear(self, table: str, partition: int, ids: U64s, blobs: Sequence[bytes]) -> None:
        """The state's."""
        self._state.clear(table, partition, ids, blobs)

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The state's."""
        return self._state.scan(table, partition, start=start)

    def close(self) -> None:
        """The state's."""
        self._state.close()


class _SideOutputs:
    """A log that takes edges, and dead letters that are new, and whose events never lack: what is replayed comes from elsewhere."""

    def __init__(self, log: Log, applied: Mapping[int, Upto] | None) -> None:
        self._log, self._applied = log, applied

    def topic(self, name: str) -> Topic:
        """The log's."""
        return self._log.topic(name)

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        """To the log, but for dead letters that were sent when their record was first applied."""
        if topic == DEAD_LETTERS:
            entries = [entry for entry in entries if self._is_new(decode_letter(entry.value))]
        return self._log.append(topic, entries, now_ms=now_ms) if entries else []

    def _is_new(self, letter: DeadLetter) -> bool:
        if self._applied is None:
            return False
        upto = self._applied.get(letter.partition, Upto(0, 0))
        return (letter.incarnation, letter.offset) >= (upto.incarnation, upto.below)

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        """The log's."""
        return self._log.read(topic, partition, offset, records_max=records_max)

    def first_offset(self, topic: str, partition: int) -> int:
        """From the very beginning."""
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        """Without end."""
        return _NO_END
