"""The embedded all-in-one: log, state, archive and vectors of one folder, and the one loop that keeps them fresh.

    with Engine(settings) as engine:
        engine.append_events([Body(...)]); engine.pump(now_ms=now_ms)

One writer: the thread that calls `pump`. Appends may come from any thread; look-ups read what was committed.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from freshet.settings import Settings
from freshet.view import View
from storage.archive import Archive
from storage.log import JSON, PACK, Entry, LogFull, Position, Record
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state_lmdb import LmdbState, boot_id
from stream.archiving import archive_rows
from stream.entities import ENTITIES, EntityIngest
from stream.ingest import EVENTS, Applied, Ingest, Tally
from stream.replay import check_archive, history, replay
from stream.routing import partition_of
from stream.shape import Shape
from stream.wire import Decoded, decode, decode_event

log = logging.getLogger(__name__)
BATCH_BYTES_MAX: Final = 64 << 20
ARCHIVE_RECORDS: Final = 512
"""Small commits reach the archive together, so many records at a time."""


class FolderBusy(RuntimeError):
    """Another process serves this data folder."""


@dataclass(frozen=True)
class Pumped:
    """What one round of the loop did; `items` have new content."""

    events: int = 0
    entities: int = 0
    items: tuple[int, ...] = ()
    applied: tuple[Applied, ...] = ()


class Engine:
    """Everything of one data folder. Raises `FolderBusy`, `ShapeChanged`, `Gap` at the start, each with its way out."""

    def __init__(self, settings: Settings, shape: Shape | None = None, *, rebuild: Callable[[int], None] | None = None) -> None:
        """Open the folder. With `rebuild` the state is first forgotten and replayed; it is told how many events each step had."""
        self.settings = settings
        self.shape = shape or Shape(partitions=settings.partitions)
        self.appended = threading.Condition()
        self.looking: Callable[[Sequence[Record], int], None] = lambda _, __: None
        """Is shown each batch, and when, just before it is applied."""
        self._number = self._entity_number = self._archived = 0
        folder = settings.data
        with ExitStack() as held:  # what was opened is closed again when the rest cannot be
            held.callback(os.close, _lock(folder))
            self.log = LmdbLog(folder / "log", partitions=self.shape.partitions, log_bytes_max=settings.log_bytes_max)
            held.callback(self.log.close)
            self.state = LmdbState(folder / "state", boot_id=boot_id(), state_bytes_max=settings.state_bytes_max)
            held.callback(self.state.close)
            if rebuild is None:
                self.state.shape(self.shape.record())
            self.names = Names(self.state)
            self.archive = Archive(folder / "archive")
            self.view = View(self.state, self.shape, self.names)
            self._events = Ingest(self.state, self.log, self.shape, names=self.names)
            self._entities = EntityIngest(self.state, self.log, self.shape, names=self.names)
            self._open(rebuild)
            held.callback(self.flush_archive)
            self._held = held.pop_all()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits for the archive, note the clean close, release the folder, the last also when the first fails."""
        self._held.close()

    @property
    def applied_number(self) -> int:
        """The append number of the next event to apply: all below are visible."""
        return self._number

    @property
    def lag(self) -> int:
        """Event records appended and not yet applied."""
        return self.log.next_number(EVENTS) - self._number

    @property
    def archive_lag(self) -> int:
        """Event records applied whose archive file is not published yet."""
        published = [self.log.number_of(EVENTS, p, self.archive.published(p)) for p in range(self.shape.partitions)]
        return max(0, self._number - min(published))

    @property
    def tallies(self) -> Tally:
        """What became of the input, over all partitions."""
        total = Tally()
        for tally in self._events.tallies.values():
            for kind, count in tally.dead_letters.items():
                total.dead_letters[kind] = total.dead_letters.get(kind, 0) + count
            total.accepted += tally.accepted
            total.duplicates += tally.duplicates
            total.newest_ms = max(total.newest_ms, tally.newest_ms)
        return total

    def partition_lags(self) -> list[dict[str, int]]:
        """Watermark, end and lag of each partition, read from state and log."""
        marks = self.state.watermarks(EVENTS)
        rows = []
        for partition in range(self.shape.partitions):
            mark, end = marks.get(partition, 0), self.log.end_offset(EVENTS, partition)
            rows.append({"partition": partition, "watermark": mark, "end": end, "lag": end - mark})
        return rows

    def append_events(self, bodies: Sequence[bytes], *, now_ms: int, form: int = JSON) -> list[Position]:
        """Append messages, each to its user's partition; durable when this returns. Raises `LogFull`, ValueError (size)."""
        entries = [Entry(self._route(body, form), body, form) for body in bodies]
        return self._append(EVENTS, entries, now_ms)

    def append_entities(self, bodies: Sequence[bytes], *, now_ms: int) -> list[Position]:
        """Append entity messages; durable when this returns. Raises `LogFull`, ValueError (size)."""
        return self._append(ENTITIES, [Entry(0, body) for body in bodies], now_ms)

    def pump(self, *, now_ms: int, records_max: int | None = None) -> Pumped:
        """One round: 1. entities, 2. at most `records_max` records of events (each a commit), 3. the archive takes what was applied."""
        entities, items = self._pump_entities(now_ms)
        bound = records_max or self.settings.batch_records_max
        records = self.log.read_ordered(EVENTS, self._number, records_max=bound, bytes_max=BATCH_BYTES_MAX)
        if not records:
            return Pumped(entities=entities, items=items)
        self.looking(records, now_ms)
        applied = self._events.apply(records, now_ms=now_ms)
        self._number = records[-1].number + 1
        self.view.take(applied, now_ms=now_ms)
        self._archive(applied)
        return Pumped(applied.events, entities, items, (applied,))

    def flush_archive(self) -> None:
        """Publish everything applied so far."""
        self._catch_up_archive()
        self.archive.flush()

    def drain(self, *, now_ms: int) -> int:
        """Pump until nothing is pending; returns how many events were applied."""
        total = 0
        while True:
            done = self.pump(now_ms=now_ms)
            total += done.events
            if not done.applied and not done.entities:
                return total

    def trim_log(self) -> int:
        """Forget event records that state and archive both have, once the log is half full; returns how many."""
        if self.log.used_bytes() * 2 < self.settings.log_bytes_max:
            return 0
        self.flush_archive()
        return self.log.truncate(EVENTS, self._number)

    def _append(self, topic: str, entries: list[Entry], now_ms: int) -> list[Position]:
        positions = self.log.append(topic, entries, now_ms=now_ms)
        with self.appended:
            self.appended.notify_all()
        return positions

    def _route(self, body: bytes, form: int) -> int:
        if self.shape.partitions == 1 or form == PACK:
            return 0
        try:
            return partition_of(decode_event(body).user_id, self.shape.partitions)
        except ValueError:
            return 0

    def _pump_entities(self, now_ms: int) -> tuple[int, tuple[int, ...]]:
        records = self.log.read_ordered(ENTITIES, self._entity_number, records_max=self.settings.batch_records_max)
        if not records:
            return 0, ()
        changed = self._entities.apply(records, now_ms=now_ms)
        self._entity_number = records[-1].number + 1
        self.view.put(changed.contents)
        return len(records), tuple(node for node, content in changed.contents.items() if content.kind == "item")

    def _open(self, rebuild: Callable[[int], None] | None) -> None:
        """Claim, rebuild what was asked for or a power cut took, and find where to go on."""
        rebuilt = rebuild is not None or self.state.distrusted
        if rebuilt:
            log.warning("state_rebuilt folder=%s because=%s", self.settings.data, "asked" if rebuild else "the machine went down")
            self._rebuild(rebuild or (lambda _: None))
        marks = self._events.claim()
        self._number = min(self.log.number_of(EVENTS, p, offset) for p, offset in marks.items())
        entity_marks = self._entities.claim()
        self._entity_number = min(self.log.number_of(ENTITIES, p, offset) for p, offset in entity_marks.items())
        self.view.load()
        if rebuilt:
            self._drain_entities()
        self.view.progress.advance(number=self._number - 1, ts_ms=self.tallies.newest_ms, now_ms=0)
        check_archive(self.archive, self.log, self.shape.partitions)
        self._archived = min(self.log.number_of(EVENTS, p, self.archive.position(p)) for p in range(self.shape.partitions))
        self._catch_up_archive()

    def _rebuild(self, told: Callable[[int], None]) -> None:
        """Empty the state, unless something is missing, and replay archive and log into it; entities come again from their own log."""
        source = history(self.archive, self.log)
        self.state.reset()
        self.state.shape(self.shape.record())
        replay(_telling(source, told), self.log, self.shape, state=self.state)

    def _drain_entities(self) -> None:
        """Look-ups must not begin without titles and deletions. A full log refuses dead letters: then `pump` goes on with the rest."""
        try:
            while records := self.log.read_ordered(ENTITIES, self._entity_number, records_max=1):
                self._pump_entities(records[0].append_ms)
        except LogFull as error:
            log.warning("entities_wait folder=%s because=%s", self.settings.data, error)

    def _archive(self, applied: Applied) -> None:
        """Hand a batch on as it was decoded; single events are left on the log until enough wait to be read in one go."""
        records = applied.decoded.records
        behind = self._number - self._archived
        if len(records) == behind and behind >= ARCHIVE_RECORDS // 8:
            self.archive.add(archive_rows(applied.decoded))
            self._archived = self._number
        elif behind >= ARCHIVE_RECORDS:
            self._catch_up_archive()

    def _catch_up_archive(self) -> None:
        """Read from the log what was applied and the archive has not taken yet."""
        while self._archived < self._number:
            records = self.log.read_ordered(EVENTS, self._archived, records_max=ARCHIVE_RECORDS, bytes_max=BATCH_BYTES_MAX)
            records = [record for record in records if record.number < self._number]
            if not records:
                return
            self.archive.add(archive_rows(decode(records)))
            self._archived = records[-1].number + 1


def _telling(source: Iterator[Decoded], told: Callable[[int], None]) -> Iterator[Decoded]:
    for decoded in source:
        told(len(decoded))
        yield decoded


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a data folder that no engine may open meanwhile. Raises `FolderBusy`."""
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = (folder / "lock").read_text() or "unknown"
        os.close(descriptor)
        raise FolderBusy(
            f"{folder} is in use by process {holder}: stop it, talk to it over HTTP (--url), or choose another folder (--data)"
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor
