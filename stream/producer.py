"""The producer: packs events of one partition together and appends them, in order, at least once.

    producer = Producer(append, partitions=1); producer.send(event); producer.flush()

`append` is whatever reaches the log: the embedded engine's, an HTTP client's. An event without an id gets one here, so
that sending it again is known for a duplicate.
"""

import itertools
import math
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from storage.log import PACK, VALUE_BYTES_MAX, Entry, Position
from stream.events import Event
from stream.routing import partition_of
from stream.wire import BAD_BYTES_MAX, PACK_EVENTS_MAX, encode_event, encode_pack

Append = Callable[[Sequence[Entry]], list[Position]]
LINGER_EVENTS: Final = 250
WAITING_MAX: Final = 20_000
"""Events held before a flush happens by itself, over all partitions."""


class Producer:
    """Not for several threads. `send` returns at once; an event is on the log when `flush` returns."""

    def __init__(self, append: Append, *, partitions: int = 1, linger_events: int = LINGER_EVENTS, prefix: str | None = None) -> None:
        if not 1 <= linger_events <= PACK_EVENTS_MAX:
            raise ValueError(f"linger_events={linger_events} is outside 1..{PACK_EVENTS_MAX}")
        self._append, self._partitions, self._linger = append, partitions, linger_events
        self._prefix, self._counter = prefix or uuid.uuid4().hex, itertools.count()
        self._waiting: list[Event | bytes] = []

    def send(self, event: Event) -> None:
        """Take an event; its id is made here when it has none. Raises what the flush raised when too many wait: it is not taken then."""
        self._make_room()
        number = next(self._counter)
        self._waiting.append(event if event.event_id else msgspec.structs.replace(event, event_id=f"{self._prefix}-{number}"))

    def send_raw(self, body: bytes) -> None:
        """Take bytes that are no event: they become a dead letter with this content (at most 64 KiB of it). Raises as `send` does."""
        self._make_room()
        next(self._counter)  # ids tell the place in what was sent
        self._waiting.append(body[:BAD_BYTES_MAX] or b" ")

    def flush(self) -> list[Position]:
        """Append what waits, in the order it was sent within each partition. On an error everything still waits."""
        if not self._waiting:
            return []
        positions = self._append(list(self._entries()))
        self._waiting.clear()
        return positions

    def _make_room(self) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self.flush()

    def _entries(self) -> list[Entry]:
        """Runs of one partition's events as packs; a raw body keeps its place between them."""
        open_runs: dict[int, list[Event]] = {}
        entries: list[Entry] = []

        def close(partition: int) -> None:
            entries.extend(_packed(partition, open_runs.pop(partition, [])))

        for what in self._waiting:
            if isinstance(what, bytes):
                close(0)
                entries.append(Entry(0, what))
                continue
            partition = self._partition(what)
            run = open_runs.setdefault(partition, [])
            run.append(what)
            if len(run) >= self._linger:
                close(partition)
        for partition in sorted(open_runs):
            close(partition)
        return entries

    def _partition(self, event: Event) -> int:
        try:
            return partition_of(event.user_id, self._partitions) if self._partitions > 1 else 0
        except (UnicodeError, pa.ArrowException):
            return 0  # its user_id is no text: a dead letter wherever it lands


def _packed(partition: int, events: list[Event]) -> list[Entry]:
    """One pack; halves when it is too large; single events that no pack can hold go as JSON, cut if need be."""
    if len(events) > 1:
        try:
            return [Entry(partition, encode_pack(events), PACK)]
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            middle = len(events) // 2
            return _packed(partition, events[:middle]) + _packed(partition, events[middle:])
    return [Entry(partition, _message(event)) for event in events]


def _message(event: Event) -> bytes:
    """One event as JSON. What JSON cannot say, or is too long, is told as text that no reader takes for an event."""
    try:
        if event.value is not None and not math.isfinite(event.value):
            raise ValueError("JSON would say null, and the event would be accepted without it")
        body = encode_event(event)
    except (ValueError, TypeError, OverflowError):
        body = repr(event).encode("utf-8", "backslashreplace")
    return body if len(body) <= VALUE_BYTES_MAX else body[:BAD_BYTES_MAX]
