"""The embedded log: LMDB, synced at each append, ordered across partitions by one number.

with LmdbLog(Path("data/log"), partitions=1) as log: ...
"""

import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import lmdb
import msgspec

from storage.log import VALUE_BYTES_MAX, Entry, LogFull, Position, Record, Topic

_HEAD: Final = struct.Struct("<HQqB")  # partition, offset, append_ms, form
_NUMBER: Final = struct.Struct(">HQ")  # topic, number
_OFFSET: Final = struct.Struct(">HHQ")  # topic, partition, offset
_U64: Final = struct.Struct("<Q")
SPARE_BYTES: Final = 64 << 20
"""Free disk space that is never used up: room to write down why we stopped."""


class _Topic(msgspec.Struct):
    index: int
    id: str
    partitions: int
    next_number: int
    first: list[int]
    end: list[int]


class LmdbLog:
    """One environment, one writer process; readers may be many. `read_only` opens it beside a running writer."""

    def __init__(self, folder: Path, *, partitions: int = 1, log_bytes_max: int = 8 << 30, read_only: bool = False) -> None:
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._partitions, self._bytes_max = folder, partitions, log_bytes_max
        self._env = lmdb.open(
            str(folder), map_size=log_bytes_max + SPARE_BYTES, max_dbs=3, sync=True, metasync=True, readonly=read_only, lock=True
        )
        self._meta, self._records, self._offsets = (
            self._env.open_db(name, create=not read_only) for name in (b"meta", b"records", b"offsets")
        )
        self._decoder = msgspec.json.Decoder(_Topic)

    def __enter__(self) -> "LmdbLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the environment."""
        self._env.close()

    def topic(self, name: str) -> Topic:
        """The topic, made on first use with this log's partition count and a new id."""
        known = self._load(name)
        if known is None:
            with self._env.begin(write=True) as txn:
                known = self._load(name, txn) or self._make(txn, name)  # another thread may have made it by now
        return Topic(name, known.id, known.partitions)

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        """Append in order, all or nothing, and sync. Raises `LogFull`; ValueError for a value above the bound."""
        for entry in entries:
            if len(entry.value) > VALUE_BYTES_MAX:
                raise ValueError(
                    f"a record of {len(entry.value)} bytes is above the bound of {VALUE_BYTES_MAX}: send fewer events in one message"
                )
        self._check_room(sum(len(entry.value) for entry in entries))
        positions = []
        try:
            with self._env.begin(write=True) as txn:
                held = self._load(topic, txn) or self._make(txn, topic)
                for partition, value, form, _ in entries:
                    offset, number = held.end[partition], held.next_number
                    txn.put(
                        _NUMBER.pack(held.index, number),
                        _HEAD.pack(partition, offset, now_ms, form) + value,
                        db=self._records,
                        append=False,
                    )
                    txn.put(_OFFSET.pack(held.index, partition, offset), _U64.pack(number), db=self._offsets)
                    positions.append(Position(partition, offset, number))
                    held.end[partition], held.next_number = offset + 1, number + 1
                txn.put(topic.encode(), msgspec.json.encode(held), db=self._meta)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise LogFull(f"the log in {self._folder} could not grow ({error}); free disk space or raise log_bytes_max") from error
        return positions

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        """Records of one partition from `offset`, inclusive."""
        held = self._load(topic)
        found: list[Record] = []
        if held is None:
            return found
        prefix = _OFFSET.pack(held.index, partition, 0)[:4]
        with self._env.begin() as txn, txn.cursor(db=self._offsets) as cursor:
            if cursor.set_range(_OFFSET.pack(held.index, partition, offset)):
                for key, value in cursor:
                    if not key.startswith(prefix) or len(found) >= records_max:
                        break
                    (number,) = _U64.unpack(value)
                    found.append(_record(number, txn.get(_NUMBER.pack(held.index, number), default=b"", db=self._records)))
        return found

    def read_ordered(self, topic: str, number: int, *, records_max: int = 4096, bytes_max: int = 8 << 20) -> list[Record]:
        """Records of all partitions from `number`, inclusive, in the order of their append."""
        found: list[Record] = []
        size = 0
        with self._env.begin() as txn:
            held = self._load(topic, txn)
            if held is None or number >= held.next_number:
                return found
            with txn.cursor(db=self._records) as cursor:
                if cursor.set_range(_NUMBER.pack(held.index, number)):
                    for key, value in cursor:
                        index, at = _NUMBER.unpack(key)
                        if index != held.index or len(found) >= records_max or size >= bytes_max:
                            break
                        size += len(value)
                        found.append(_record(at, value))
        return found

    def number_of(self, topic: str, partition: int, offset: int) -> int:
        """The append number of the first record at or after `offset` of a partition; the next number when there is none."""
        held = self._load(topic)
        records = self.read(topic, partition, offset, records_max=1)
        return records[0].number if records else (held.next_number if held else 0)

    def next_number(self, topic: str) -> int:
        """The number the next append will get."""
        held = self._load(topic)
        return held.next_number if held else 0

    def first_offset(self, topic: str, partition: int) -> int:
        """The lowest offset still held."""
        held = self._load(topic)
        return held.first[partition] if held else 0

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset the next record will get."""
        held = self._load(topic)
        return held.end[partition] if held else 0

    def truncate(self, topic: str, before: int) -> int:
        """Forget records numbered below `before`; returns how many. The caller makes sure that state and archive have them."""
        with self._env.begin(write=True) as txn:
            held = self._load(topic, txn)
            if held is None:
                return 0
            dropped = 0
            with txn.cursor(db=self._records) as cursor:
                going = cursor.set_range(_NUMBER.pack(held.index, 0))
                while going and cursor.key() < _NUMBER.pack(held.index, before):
                    record = _record(_NUMBER.unpack(cursor.key())[1], cursor.value())
                    txn.delete(_OFFSET.pack(held.index, record.partition, record.offset), db=self._offsets)
                    held.first[record.partition] = record.offset + 1
                    dropped += 1
                    going = cursor.delete() and bool(cursor.key())  # True also when nothing is left
            txn.put(topic.encode(), msgspec.json.encode(held), db=self._meta)
            return dropped

    def used_bytes(self) -> int:
        """Bytes of the pages that hold records; what truncation freed is room again, though the file does not shrink."""
        with self._env.begin() as txn:
            stats = [txn.stat(database) for database in (self._meta, self._records, self._offsets)]
        return sum(int(s["psize"]) * int(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"]) for s in stats)

    def _load(self, name: str, txn: lmdb.Transaction | None = None) -> _Topic | None:
        if txn is not None:
            raw = txn.get(name.encode(), db=self._meta)
        else:
            with self._env.begin() as reading:
                raw = reading.get(name.encode(), db=self._meta)
        return self._decoder.decode(raw) if raw is not None else None

    def _make(self, txn: lmdb.Transaction, name: str) -> _Topic:
        known = txn.stat(db=self._meta)["entries"]
        fresh = _Topic(known, uuid.uuid4().hex, self._partitions, 0, [0] * self._partitions, [0] * self._partitions)
        txn.put(name.encode(), msgspec.json.encode(fresh), db=self._meta)
        return fresh

    def _check_room(self, wanted: int) -> None:
        if self.used_bytes() + 2 * wanted > self._bytes_max:
            raise LogFull(
                f"the log in {self._folder} holds {self.used_bytes()} bytes, its bound is "
                f"log_bytes_max={self._bytes_max}; raise it or let the archive catch up"
            )
        free = shutil.disk_usage(self._folder).free
        if free < SPARE_BYTES + 2 * wanted:
            raise LogFull(f"only {free} bytes are free on the disk of {self._folder}; {SPARE_BYTES} stay reserved: free some space")


def _record(number: int, value: bytes) -> Record:
    partition, offset, append_ms, form = _HEAD.unpack_from(value)
    return Record(number, partition, offset, append_ms, form, value[_HEAD.size :])
