"""Ingest: one batch of the log becomes state in one atomic commit.

    ingest = Ingest(state, log, shape, names=Names(state)); ingest.claim()
    applied = ingest.apply(records)

Order of effects: 1. dead letters are appended, and edges where they have a topic of their own; 2. names, histories,
seen-sets, counts, neighbours, dirty marks, tallies and watermarks are committed at once; 3. caches learn what was
committed. A crash before 2 repeats 1, which is harmless: a letter is known by its origin, an edge by its event.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np

from storage.arrays import Bools, I64s, U64s
from storage.counts import load_counts, store_counts
from storage.log import PACK, Entry, Log, Record
from storage.names import Names
from storage.partitioned import distinct_rows, present, read_tables, write_rows
from storage.ragged import cut
from storage.state import COUNTS, HISTORIES, SEEN, TALLIES, Advance, Claim, Gap, Refusal, State, Write
from stream.deadletters import DEAD_LETTERS, DeadLetter, encode
from stream.edges import EDGES, Made, Upstream, place, split
from stream.hashing import Hashed, hash_events
from stream.likings import likings
from stream.neighbour_lists import connected, dirty_mark
from stream.reducers import Columns, Edges, reduce_counts, reduce_users
from stream.shape import Shape
from stream.validation import refusals
from stream.wire import Decoded, decode, taken

EVENTS: Final = "events"
_TALLY: Final = np.array([1], dtype=np.uint64)
_PARTITION_SALT: Final = np.uint64(0xD6E8FEB86659FD93)


class Tally(msgspec.Struct):
    """What became of a partition's input, kept with its state in the same commit."""

    accepted: int = 0
    duplicates: int = 0
    dead_letters: dict[str, int] = {}
    newest_ms: int = 0


@dataclass(frozen=True)
class Applied:
    """One committed batch. `columns` are its valid events, `kept` (N,) those that were no duplicates; `born` are new items."""

    records: int
    events: int
    duplicates: int
    dead_letters: list[DeadLetter]
    items: U64s
    counts: I64s
    born: dict[str, int]
    ts_ms: int
    decoded: Decoded
    columns: Columns
    kept: Bools


@dataclass
class Prepared:
    """A batch reduced and not yet committed: what it will write, and what is to be on the log before it may.

    items (C,), counts (C, 4), counted_in (C,): what was counted, its new counts, and the partition they lie in.
    """

    decoded: Decoded
    hashed: Hashed
    letters: list[DeadLetter]
    applied: Bools
    edges: Edges
    rows: I64s
    writes: list[Write] = field(default_factory=list)
    items: U64s = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: I64s = field(default_factory=lambda: np.empty((0, 4), np.int64))
    counted_in: I64s = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class _Closed:
    """A batch with all that its commit says."""

    prepared: Prepared
    advances: list[Advance]
    writes: list[Write]
    tallies: dict[int, Tally]


@dataclass(frozen=True)
class _Counted:
    """The rows of counts a batch touches, (partition, item) each, and each event's among them."""

    where: I64s
    items: U64s
    rows: I64s

    @classmethod
    def of(cls, hashed: Hashed) -> "_Counted":
        first, rows = distinct_rows(hashed.columns.items ^ (hashed.partitions.astype(np.uint64) * _PARTITION_SALT))
        return cls(hashed.partitions[first], hashed.columns.items[first], rows)


@dataclass(frozen=True)
class _Held:
    """A batch's users (U,), their partitions, each event's place among them, what it counts, and what the state holds of all that."""

    users: U64s
    where: I64s
    places: I64s
    counted: _Counted
    histories: list[bytes | None]
    seen: list[bytes | None]
    counts: list[bytes | None]


def no_fault(point: str) -> None:
    """Where tests let the process die."""


class Ingest:
    """Applies records in the order given. `fault` is called at each named point of a commit.

    A replay (`replaying`) sends no dead letters and looks for no gap. With `edges_apart` edges go to their own topic, keyed
    by node, and a commit touches one partition alone; else neighbours are part of the commit.
    """

    def __init__(  # noqa: PLR0913  # what it works on, and three switches
        self, state: State, log: Log, shape: Shape, *, names: Names, replaying: bool = False, edges_apart: bool = False,
        fault: Callable[[str], None] = no_fault,
    ) -> None:  # fmt: skip
        self._replaying, self._edges_apart = replaying, edges_apart
        self._state, self._log, self._shape, self._names, self._fault = state, log, shape, names, fault
        self._claims: dict[int, Claim] = {}
        self._marks: dict[int, int] = {}
        self._tallies: dict[int, Tally] = {}

    def claim(self) -> dict[int, int]:
        """Claim every partition and return the watermarks. Raises `Gap` when the log cannot continue them."""
        for partition in range(self._shape.partitions):
            self.claim_partition(partition)
        return dict(self._marks)

    def claim_partition(self, partition: int) -> int:
        """Claim one partition and return its watermark; nothing that was known of it before counts. Raises `Gap`."""
        claim = self._state.claim(EVENTS, partition, self._log.topic(EVENTS).id)
        if not self._replaying:
            check_gap(self._log, claim)
        self._claims[partition], self._marks[partition] = claim, claim.watermark
        (blob,) = self._state.read(TALLIES, partition, _TALLY)
        self._tallies[partition] = msgspec.json.decode(blob, type=Tally) if blob else Tally()
        self._names.forget()  # a state that lost its last second has lost names too
        return claim.watermark

    def incarnation(self, partition: int) -> int:
        """Which of the topic's lives a claimed partition is read in."""
        return self._claims[partition].incarnation

    @property
    def tallies(self) -> dict[int, Tally]:
        """What became of the input so far, by partition."""
        return self._tallies

    def apply(self, records: Sequence[Record], *, now_ms: int) -> Applied:
        """Apply records in this order; those below the watermark are dropped. now_ms stamps dead letters' appends only."""
        return self.apply_decoded(decode([r for r in records if r.offset >= self._marks[r.partition]]), now_ms=now_ms)

    def apply_decoded(self, decoded: Decoded, *, now_ms: int) -> Applied:
        """Apply records that were decoded already; all must be at or above their watermark."""
        prepared = self.prepare(decoded)
        self.publish([prepared], now_ms=now_ms)
        return self.commit(prepared)

    def prepare(self, decoded: Decoded) -> Prepared:
        """Validate, hash and reduce a batch over the state as it is; nothing is written.

        Raises `Fenced`, `WatermarkMoved` as `commit` does, and before anything is sent: edges made over a state that somebody else has,
        or that has lost its last second, would make the ones in between look old.
        """
        records = decoded.records
        append_ms = np.array([r.append_ms for r in records], dtype=np.int64)[decoded.record]
        reasons = refusals(decoded.source, append_ms, self._shape)
        hashed, rows = self._hash(decoded, reasons)
        hashed, held = self._read(decoded, hashed)
        while hashed.clashed:
            reasons |= {int(rows[row]): "id collision: its 64-bit id belongs to another name" for row in hashed.clashed}
            hashed, rows = self._hash(decoded, reasons)
            hashed, held = self._read(decoded, hashed)
        return self._reduce(decoded, hashed, held, self._letters(decoded, reasons), rows=rows)

    def publish(self, batches: Sequence[Prepared], *, now_ms: int) -> None:
        """Append what must be on the log before these batches may be committed, and wait until it is."""
        if self._replaying:
            return
        letters = [letter for prepared in batches for letter in prepared.letters]
        if letters:
            self._fault("before dead letters")
            self._log.append(DEAD_LETTERS, [Entry(0, encode(letter)) for letter in letters], now_ms=now_ms)
            self._fault("after dead letters")
        if self._edges_apart:
            self._publish_edges(batches, now_ms)

    def commit(self, prepared: Prepared, *, ends: Mapping[int, int] | None = None) -> Applied:
        """Write a batch at once. `ends`: where each partition's reader stands, if beyond the last record.

        Raises `Fenced`, `WatermarkMoved`: somebody else has the partition, or the state is another than this batch was reduced over.
        """
        closed = self._closed(prepared, ends or {})
        self._fault("before commit")
        self._state.commit(closed.advances, closed.writes)
        self._fault("after commit")
        return self._noted(closed)

    def commit_each(self, batches: Sequence[tuple[Prepared, Mapping[int, int]]]) -> list[Applied | Refusal]:
        """The same of several batches, (batch, ends) each, of different partitions, by themselves and at once: a refusal is returned."""
        closed = [self._closed(prepared, ends) for prepared, ends in batches]
        self._fault("before commit")
        refusals = self._state.commit_each([(one.advances, one.writes) for one in closed])
        self._fault("after commit")
        return [self._noted(one) if refused is None else refused for one, refused in zip(closed, refusals, strict=True)]

    def _publish_edges(self, batches: Sequence[Prepared], now_ms: int) -> None:
        """Round after round; batches are of different upstream partitions, so their messages do not wait for one another."""
        made = []
        for prepared in batches:
            decoded = prepared.decoded
            if len(prepared.edges):
                partition = decoded.records[0].partition
                offsets = np.array([record.offset for record in decoded.records], dtype=np.int64)[decoded.record[prepared.rows]]
                upstream = Upstream(partition, self._claims[partition].incarnation)
                made.append(Made(upstream, prepared.edges, place(offsets, decoded.index[prepared.rows])))
        for entries in split(made, self._shape.partitions):
            self._fault("before edges")
            self._log.append(EDGES, entries, now_ms=now_ms)
            self._fault("after edges")

    def _hash(self, decoded: Decoded, reasons: dict[int, str]) -> tuple[Hashed, I64s]:
        """Hash the rows that are not refused, and say which; the misrouted are refused too."""
        rows = _left(len(decoded), reasons)
        hashed = self._hash_valid(decoded, rows)
        if self._shape.partitions > 1:
            landed = np.array([r.partition for r in decoded.records], dtype=np.int64)[decoded.record[rows]]
            lost = rows[landed != hashed.partitions].tolist()
            if lost:
                reasons |= dict.fromkeys(lost, "misrouted: the producer needs partitioner=murmur2_random (key = user_id)")
                rows = _left(len(decoded), reasons)
                hashed = self._hash_valid(decoded, rows)
        return hashed, rows

    def _hash_valid(self, decoded: Decoded, rows: I64s) -> Hashed:
        events = decoded.source if len(rows) == len(decoded) else taken(decoded.source, rows)

        def origin(row: int) -> str:
            at, index = decoded.records[int(decoded.record[rows[row]])], int(decoded.index[rows[row]])
            return f"{EVENTS}:{self._claims[at.partition].incarnation}:{at.partition}:{at.offset}:{index}"

        return hash_events(events, origin, self._names, self._shape)

    def _letters(self, decoded: Decoded, reasons: dict[int, str]) -> list[DeadLetter]:
        found = [(bad.record, bad.index, bad.reason, bad.raw) for bad in decoded.bad]
        for row, reason in reasons.items():
            n, index = int(decoded.record[row]), int(decoded.index[row])
            found.append((n, index, reason, _raw(decoded, row, n)))
        letters = []
        for n, index, reason, raw in sorted(found, key=lambda f: f[:2]):
            at = decoded.records[n]
            incarnation = self._claims[at.partition].incarnation
            letters.append(
                DeadLetter(
                    topic=EVENTS, incarnation=incarnation, partition=at.partition, offset=at.offset, index=index,
                    reason=reason, append_ms=at.append_ms, raw=raw,
                )
            )  # fmt: skip
        return letters

    def _read(self, decoded: Decoded, hashed: Hashed) -> tuple[Hashed, "_Held"]:
        """What the state holds of this batch, names included, in one look."""
        users, places = distinct_rows(hashed.columns.users)
        counted = _Counted.of(hashed)
        ids, where = hashed.columns.users[users], hashed.partitions[users]
        asked = [(HISTORIES, where, ids), (SEEN, where, ids), (COUNTS, counted.where, counted.items)]
        at = [(self._claims[p], self._marks[p]) for p in {record.partition for record in decoded.records}]
        histories, seen, counts, *names = read_tables(self._state, asked + hashed.asked(), at=at)
        return hashed.named(names), _Held(ids, where, places, counted, histories, seen, counts)

    def _reduce(self, decoded: Decoded, hashed: Hashed, held: "_Held", letters: list[DeadLetter], *, rows: I64s) -> Prepared:
        reduced = reduce_users(held.places, hashed.columns, held.histories, held.seen, self._shape)
        batch = Prepared(decoded, hashed, letters, reduced.applied, reduced.edges, rows, list(hashed.writes))
        if len(held.users):
            batch.writes += write_rows(HISTORIES, held.where, held.users, cut(*reduced.histories))
            batch.writes += write_rows(SEEN, held.where, held.users, cut(*reduced.seen))
            self._count(batch, held.counted, load_counts(held.counts))
        if len(batch.edges) and not self._edges_apart:
            self._connect(batch)
        return batch

    def _count(self, batch: Prepared, counted: "_Counted", table: I64s) -> None:
        reduce_counts(table, counted.rows, batch.hashed.columns, batch.applied, self._shape)
        used = table[:, 0].nonzero()[0]
        batch.items, batch.counts, batch.counted_in = counted.items[used], table[used], counted.where[used]
        if len(used):
            batch.writes += write_rows(COUNTS, batch.counted_in, batch.items, store_counts(batch.counts))

    def _connect(self, batch: Prepared) -> None:
        """Neighbours and dirty marks as part of this commit; a collection has no vector and is not marked."""
        records = batch.decoded.records
        mark = dirty_mark(records[-1].number, append_ms=records[0].append_ms)
        batch.writes += connected(self._state, batch.edges, batch.edges.of_items(), self._shape, mark=lambda _: mark)

    def _advances(self, prepared: Prepared, ends: Mapping[int, int]) -> list[Advance]:
        after = {record.partition: record.offset + 1 for record in prepared.decoded.records}  # offsets of a partition ascend
        after |= {partition: max(end, after.get(partition, 0)) for partition, end in ends.items()}
        advances = [Advance(self._claims[p], before=self._marks[p], after=offset) for p, offset in after.items()]
        if len(advances) == 1:  # as all are that somebody follows; else who answers sees the batch itself
            return [replace(advances[0], likings=likings(prepared.hashed.columns, prepared.applied))]
        return advances

    def _closed(self, prepared: Prepared, ends: Mapping[int, int]) -> "_Closed":
        tallies = self._tally(prepared)
        writes = prepared.writes + [Write(TALLIES, p, _TALLY, [msgspec.json.encode(t)]) for p, t in tallies.items()]
        return _Closed(prepared, self._advances(prepared, ends), writes, tallies)

    def _noted(self, closed: "_Closed") -> Applied:
        """What is known here of what was committed."""
        self._marks.update({a.claim.partition: a.after for a in closed.advances})
        self._tallies.update(closed.tallies)
        for kind, fresh in closed.prepared.hashed.fresh:
            self._names.learn(kind, fresh)
        return _applied(closed.prepared)

    def _tally(self, prepared: Prepared) -> dict[int, Tally]:
        hashed, tallies = prepared.hashed, dict[int, Tally]()
        where = present(hashed.partitions)
        for partition in {*where, *(letter.partition for letter in prepared.letters)}:
            old, here = self._tallies[partition], slice(None) if where == [partition] else hashed.partitions == partition
            dead = dict(old.dead_letters)
            for letter in prepared.letters:
                if letter.partition == partition:
                    dead[letter.kind] = dead.get(letter.kind, 0) + 1
            stamps = hashed.columns.stamps[here]
            accepted, newest_ms = len(stamps), int(stamps.max(initial=0)) >> 16
            tallies[partition] = Tally(
                accepted=old.accepted + accepted,
                duplicates=old.duplicates + accepted - int(np.count_nonzero(prepared.applied[here])),
                dead_letters=dead, newest_ms=max(old.newest_ms, newest_ms),
            )  # fmt: skip
        return tallies


def _left(count: int, refused: Collection[int]) -> I64s:
    """The rows of `count` that are not refused."""
    rows = np.arange(count, dtype=np.int64)
    return np.delete(rows, list(refused)) if refused else rows


def _applied(prepared: Prepared) -> Applied:
    columns = prepared.hashed.columns
    return Applied(
        records=len(prepared.decoded.records),
        events=len(columns),
        duplicates=len(columns) - int(np.count_nonzero(prepared.applied)),
        dead_letters=prepared.letters,
        items=prepared.items,
        counts=prepared.counts,
        born={name: node for kind, fresh in prepared.hashed.fresh if kind == 0 for name, node in fresh.items()},
        ts_ms=int(columns.stamps.max(initial=0)) >> 16,
        decoded=prepared.decoded,
        columns=columns,
        kept=prepared.applied,
    )


def check_gap(log: Log, claim: Claim) -> None:
    """Raise `Gap` when the log's records do not continue at the claim's watermark."""
    first, end = log.first_offset(claim.stream, claim.partition), log.end_offset(claim.stream, claim.partition)
    if not first <= claim.watermark <= end:
        raise Gap(
            f"partition {claim.partition} of {claim.stream!r} is applied up to offset {claim.watermark}, the log holds {first}..{end}. "
            "Rebuild from the archive (freshet rebuild), or accept the loss on record (freshet gap accept)."
        )


def _raw(decoded: Decoded, row: int, record: int) -> bytes:
    """The bytes of a refused event: its message, or of a pack its own row as JSON."""
    at = decoded.records[record]
    if at.form != PACK:
        return at.value[:65_536]
    values = {k: v for k, v in decoded.events.slice(row, 1).to_pylist()[0].items() if v is not None}
    return msgspec.json.encode(values)[:65_536]
