"""The log: numbered records in topics and partitions, with Kafka's offsets.

positions = log.append("events", [Entry(partition=0, value=body)], now_ms=now_ms)
for record in log.read("events", partition=0, offset=0): ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

JSON: Final = 0
PACK: Final = 1
VALUE_BYTES_MAX: Final = 1 << 20


class Entry(NamedTuple):
    """What a producer appends: a JSON event or an Arrow pack, with the partition its key routes to."""

    partition: int
    value: bytes
    form: int = JSON
    key: bytes | None = None


class Position(NamedTuple):
    """Where a record landed; `number` counts the appends of a topic across its partitions."""

    partition: int
    offset: int
    number: int


class Record(NamedTuple):
    """A record read back. `append_ms` is the log's own time, the only clock that validation knows."""

    number: int
    partition: int
    offset: int
    append_ms: int
    form: int
    value: bytes
    key: bytes = b""


@dataclass(frozen=True)
class Topic:
    """A topic's identity: recreated, it has another id, and offsets of the two are never compared."""

    name: str
    id: str
    partitions: int


class LogFull(RuntimeError):
    """The log has reached its bound or the disk its end; nothing was appended."""


class Log(Protocol):
    """An acknowledged append is durable; offsets of a partition ascend."""

    def topic(self, name: str) -> Topic:
        """The topic, made with the log's partition count on first use."""

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        """Append in order, all or nothing. Raises `LogFull`, and ValueError for a value above VALUE_BYTES_MAX."""

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        """Records of one partition from `offset`, inclusive."""

    def first_offset(self, topic: str, partition: int) -> int:
        """The lowest offset still held; equals the end when the partition is empty."""

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset the next record will get."""
