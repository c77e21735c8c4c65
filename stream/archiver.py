"""The worker's archive: what was applied becomes files of a shared store, outside the commits' path.

The worker hands on each batch it has committed, as it was decoded; a thread makes rolls of them. A hand-over is a
convenience and never the truth: what lies between a partition's files and its watermark is read from the log whenever it is
not at hand, after a claim, after a crash, when the thread cannot keep up and when the store was away. Several workers write
one store without harm: a file is named by its offsets, and readers drop what they have seen.

    archiver = Archiver(place, log, clock_ms=now_ms); archiver.claimed(0, incarnation=0, watermark=17)
    archiver.applied(0, decoded, 40); archiver.close()
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from storage.archive import Archive
from storage.log import Log
from storage.places import Place
from storage.state import Gap
from stream.archiving import archive_rows
from stream.ingest import EVENTS, no_fault
from stream.kafka import KafkaUnreachable
from stream.wire import Decoded, decode

log = logging.getLogger(__name__)
ROLL_AGE_MS: Final = 60_000
"""Older rows are not kept waiting: so far, and a training or a rebuild reads them from files."""
NICENESS: Final = 10
"""Of the thread that compresses and writes: a roll takes a core for a second, and events wait for nobody's file."""
WAITING_BYTES_MAX: Final = 128 << 20
"""Of all partitions' rows that wait for their roll; then the largest is written."""
HANDED_EVENTS_MAX: Final = 131_072
"""Events that wait for the thread; beyond that it reads them from the log when it comes to them."""
READ_RECORDS: Final = 1000
RETRY_S: Final = 5.0
CLOSE_S: Final = 6.0


@dataclass
class _Line:
    """One claim of a partition: up to where it is applied, taken (a file has it, or it waits for its roll) and published."""

    partition: int
    incarnation: int
    applied: int
    taken: int = 0
    published: int = 0
    waiting: int = 0
    since_ms: int = 0
    archive: Archive | None = None


@dataclass(frozen=True)
class _Handed:
    """A committed batch, `taken` from `before` to `after`; without `decoded` only the news that it was."""

    line: _Line
    before: int
    after: int
    decoded: Decoded | None

    @property
    def weight(self) -> int:
        """How many events wait with it; an unreadable message is one."""
        return max(len(self.decoded), len(self.decoded.records)) if self.decoded is not None else 0


@dataclass
class _Shared:
    """What the two threads share, under one lock."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    handed: deque[_Handed] = field(default_factory=deque)
    weight: int = 0
    flushing: bool = False
    closing: bool = False
    error: BaseException | None = None


class Archiver:
    """`claimed` and `applied` are the worker's threads', one at a time for a partition; the rest happens in a thread of its own.

    A store or a log that cannot be reached is tried again and only told; whatever else goes wrong is raised by the next call.
    `fault` is called around each roll.
    """

    def __init__(  # noqa: PLR0913  # what it works on, and how
        self, place: Place, events_log: Log, *, clock_ms: Callable[[], int], age_ms: int = ROLL_AGE_MS, retry_s: float = RETRY_S,
        fault: Callable[[str], None] = no_fault,
    ) -> None:  # fmt: skip
        self._place, self._log, self._clock_ms = place, events_log, clock_ms
        self._age_ms, self._retry_s, self._fault = age_ms, retry_s, fault
        self._claimed: dict[int, _Line] = {}
        self._open: dict[int, _Line] = {}
        self._shared = _Shared()
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)

    @property
    def behind(self) -> int:
        """Records applied here whose file is not published yet."""
        return sum(max(0, line.applied - line.published) for line in list(self._claimed.values()))

    def claimed(self, partition: int, *, incarnation: int, watermark: int) -> None:
        """The partition is ours from `watermark` on. What its files lack below is read from the log first."""
        line = self._claimed[partition] = _Line(partition, incarnation, watermark)
        self._hand(_Handed(line, watermark, watermark, None))

    def applied(self, partition: int, decoded: Decoded, after: int) -> None:
        """A batch is committed; the next one begins at `after`."""
        line = self._claimed[partition]
        self._hand(_Handed(line, line.applied, after, decoded))

    def flush(self, *, timeout_s: float) -> bool:
        """Write everything applied so far, read from the log where it must be; whether that was done in time."""
        shared = self._shared
        with shared.changed:
            shared.flushing = True
            shared.changed.notify_all()
            done = shared.changed.wait_for(lambda: self.behind == 0 or shared.error is not None, timeout_s)
            shared.flushing = False
            if shared.error is not None:
                raise shared.error
        return done

    def close(self) -> None:
        """Write what is at hand, for at most CLOSE_S; whoever has the partitions next reads the rest from the log."""
        with self._shared.changed:
            self._shared.closing = True
            self._shared.changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _hand(self, item: _Handed) -> None:
        shared = self._shared
        with shared.changed:
            if shared.error is not None:
                raise shared.error
            item.line.applied = item.after
            if shared.weight + item.weight <= HANDED_EVENTS_MAX:
                shared.handed.append(item)
                shared.weight += item.weight
            shared.changed.notify_all()
            if self._thread.ident is None:
                self._thread.start()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # on Linux a thread has its own
        while not self._shared.closing:
            try:
                self._wait()
                self._work()
            except (OSError, KafkaUnreachable) as error:
                log.error("archive_waits behind=%d because=%s", self.behind, error)
                self._forget()
                with self._shared.changed:
                    self._shared.changed.wait_for(lambda: self._shared.closing, self._retry_s)
            except Exception as error:  # noqa: BLE001  # the outermost of this thread: raised in the worker's
                with self._shared.changed:
                    self._shared.error = error
                    self._shared.changed.notify_all()
                return
        try:
            self._write_all()
        except OSError as error:
            log.error("archive_left behind=%d because=%s", self.behind, error)

    def _wait(self) -> None:
        """Until there is something to take, or a roll is due; not at all while a partition must begin again where its files end."""
        now_ms, shared = self._clock_ms(), self._shared
        if any(line.archive is None for line in self._open.values()):
            return
        due = [line.since_ms + self._age_ms - now_ms for line in self._open.values() if line.waiting]
        with shared.changed:
            soon = max(0, min(due)) / 1000 if due else None
            shared.changed.wait_for(lambda: shared.handed or shared.closing or (shared.flushing and self.behind), soon)

    def _work(self) -> None:
        """Take everything handed over, then what was not, then write what is due."""
        while (item := self._next()) is not None:
            self._take(item)
            self._write_due()
        for line, applied in self._left():
            self._catch_up(line, applied)
        self._write_due()
        with self._shared.changed:
            self._shared.changed.notify_all()

    def _next(self) -> _Handed | None:
        with self._shared.changed:
            if not self._shared.handed:
                return None
            item = self._shared.handed.popleft()
            self._shared.weight -= item.weight
            return item

    def _left(self) -> list[tuple[_Line, int]]:
        """Where each partition stands, unless a hand-over is on its way that will tell."""
        with self._shared.changed:
            return [] if self._shared.handed else [(line, line.applied) for line in self._open.values()]

    def _take(self, item: _Handed) -> None:
        line = item.line
        held = self._open.get(line.partition)
        self._open[line.partition] = line
        if held is not None and held is not line:
            self._write(held)
        self._catch_up(line, item.before)
        if item.decoded is not None and item.before <= line.taken < item.after:
            self._add(line, archive_rows(item.decoded), item.after)

    def _catch_up(self, line: _Line, upto: int) -> None:
        """Read from the log what nobody handed over, below `upto`."""
        if line.archive is None:
            self._begin(line)
        while line.taken < upto and not self._shared.closing:
            records = self._log.read(EVENTS, line.partition, line.taken, records_max=READ_RECORDS)
            records = [record for record in records if record.offset < upto]
            if not records:  # nothing but markers of transactions
                line.taken = upto
                break
            self._add(line, archive_rows(decode(records)), records[-1].offset + 1)
            self._write_due()
        if line.archive is not None:
            self._note(line, line.archive)

    def _begin(self, line: _Line) -> None:
        """Find where the partition's files end. Raises `Gap` when the log does not go on there.

        An archive that has nothing of the partition begins where the log does, and a file without rows says so.
        """
        archive = Archive(self._place, incarnation=line.incarnation)
        first, end = self._log.first_offset(EVENTS, line.partition), self._log.end_offset(EVENTS, line.partition)
        begun = any((part.partition, part.incarnation) == (line.partition, line.incarnation) for part in archive.parts())
        if first and not begun:
            log.warning("archive_begins partition=%d offset=%d: what came before can not be rebuilt", line.partition, first)
            archive.give_up(line.partition, first, number=first)
        position = archive.published(line.partition)
        if not first <= position <= end:
            raise Gap(
                f"the archive of partition {line.partition} ends at offset {position}, the log holds {first}..{end}: "
                "name the archive that belongs to this log, or accept the loss on record (freshet gap accept)"
            )
        line.archive, line.taken, line.published, line.waiting = archive, position, position, 0

    def _add(self, line: _Line, rows: pa.RecordBatch, end: int) -> None:
        assert line.archive is not None, "a line takes rows once it knows where its files end"
        if not line.waiting:
            line.since_ms = self._clock_ms()
        line.archive.add(rows)
        line.waiting += rows.nbytes
        line.taken = end
        self._note(line, line.archive)

    def _note(self, line: _Line, archive: Archive) -> None:
        """An archive also writes by itself, when a roll is full."""
        if archive.published(line.partition) == archive.position(line.partition):
            line.published, line.waiting = line.taken, 0

    def _write_due(self) -> None:
        """Rolls that are old enough, and the largest while too much waits."""
        now_ms = self._clock_ms()
        for line in self._open.values():
            if line.waiting and (self._shared.flushing or now_ms - line.since_ms >= self._age_ms):
                self._write(line)
        while sum(line.waiting for line in self._open.values()) > WAITING_BYTES_MAX:
            self._write(max(self._open.values(), key=lambda line: line.waiting))

    def _write_all(self) -> None:
        """What was handed over in order, and what waits; the log is not read any more."""
        while (item := self._next()) is not None:
            line = item.line
            begun = self._open.get(line.partition) is line and line.archive is not None
            if begun and item.decoded is not None and item.before <= line.taken < item.after:
                self._add(line, archive_rows(item.decoded), item.after)
        for line in self._open.values():
            self._write(line)

    def _write(self, line: _Line) -> None:
        if line.archive is not None and line.waiting:
            self._fault("before archive")
            line.archive.flush()
            self._fault("after archive")
            self._note(line, line.archive)

    def _forget(self) -> None:
        """Nothing waits in memory for a store that is away: each partition begins again where its files end."""
        for line in self._open.values():
            line.archive, line.waiting = None, 0
