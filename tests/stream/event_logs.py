"""Logs to ingest: seeded streams with everything that goes wrong, and the loop that applies them.

messages = make_messages(random.Random(1), shape, count=500); positions = fill(log, messages)
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench.faults.messages import APPEND_MS, SMALL, Message, columns, expected, make_messages
from storage.log import JSON, Position, Record
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import DIGESTED, State
from stream.deadletters import DEAD_LETTERS, DeadLetter, decode
from stream.events import Event
from stream.ingest import EVENTS, Ingest
from stream.shape import Shape
from stream.wire import encode_event
from tests.stream.oracle import Oracle

__all__ = [
    "APPEND_MS", "NO_LIMIT", "SMALL", "THREE", "Message", "columns", "expected", "fill", "ingest_all", "letters", "make_messages",
    "records_of", "stored", "totals", "wanted",
]  # fmt: skip
NO_LIMIT = 1 << 40
THREE = replace(SMALL, partitions=3)


def fill(log: LmdbLog, messages: Sequence[Message]) -> list[Position]:
    """Append everything in one go."""
    return log.append(EVENTS, [message.entry for message in messages], now_ms=APPEND_MS)


def ingest_all(log: LmdbLog, state: State, shape: Shape, *, batch: int = 4096, fault: Callable[[str], None] = lambda point: None) -> Ingest:
    """Claim, then apply the log from the watermarks to its end, `batch` records at a time."""
    ingest = Ingest(state, log, shape, names=Names(state), fault=fault)
    marks = ingest.claim()
    number = min(log.number_of(EVENTS, partition, mark) for partition, mark in marks.items())
    while records := log.read_ordered(EVENTS, number, records_max=batch, bytes_max=NO_LIMIT):
        ingest.apply(records, now_ms=APPEND_MS)
        number = records[-1].number + 1
    return ingest


def stored(state: State, partitions: int = 1) -> dict[str, dict[int, bytes]]:
    """Every digested row of a state, by table and partition."""
    return {f"{table}/{p}": dict(state.scan(table, p)) for table in DIGESTED for p in range(partitions)}


def wanted(oracle: Oracle) -> dict[str, dict[int, bytes]]:
    """The same, as the oracle has it."""
    return {f"{table}/{p}": oracle.blobs(table, p) for table in DIGESTED for p in range(oracle.shape.partitions)}


def letters(log: LmdbLog) -> list[DeadLetter]:
    """All dead letters, repeated ones included."""
    return [decode(record.value) for record in log.read(DEAD_LETTERS, 0, 0, records_max=1 << 30)]


def totals(ingest: Ingest) -> Counter[str]:
    """accepted, duplicates and dead letters over all partitions."""
    total: Counter[str] = Counter()
    for tally in ingest.tallies.values():
        total += Counter(accepted=tally.accepted, duplicates=tally.duplicates, dead=sum(tally.dead_letters.values()))
    return total


def records_of(events: Sequence[Event], *, first: int = 0) -> Iterator[Record]:
    """Events as JSON records of partition 0, without a log."""
    for n, event in enumerate(events, first):
        yield Record(n, 0, n, APPEND_MS, JSON, encode_event(event))
