"""Bytes to columns and back: one JSON event per message, or up to a thousand in one Arrow pack.

Both are untrusted. A pack is bounded before and after decompression, its schema compared and its buffers validated
before anything reads them: one altered offset would otherwise be a segmentation fault.

    decoded = decode(records); pack = encode_pack(events)
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from storage.arrays import I64s
from storage.columns import EVENT_SCHEMA
from storage.log import PACK, VALUE_BYTES_MAX, Record
from stream.events import Event

PACK_EVENTS_MAX: Final = 1000
PACK_BYTES_MAX: Final = 8 << 20
"""Bound on a pack's columns after decompression."""
BAD_BYTES_MAX: Final = 65_536
"""Of an unreadable message at most this much is kept in its dead letter."""


class _StrictEvent(Event, forbid_unknown_fields=True):
    """An event that names no field we do not know."""


_strict: Final = msgspec.json.Decoder(_StrictEvent)
_lenient: Final = msgspec.json.Decoder(Event)


@dataclass(frozen=True)
class Bad:
    """A message, or one event of a pack, that is refused: which record, which index in it, why, and its bytes."""

    record: int
    index: int
    reason: str
    raw: bytes


Events: TypeAlias = pa.RecordBatch | list[Event]
"""Events as columns, or one by one where few came so: to make columns of a few JSON messages costs more than to apply them."""
COLUMNS_FROM: Final = 256
"""So many are made columns at once: the archive asks for them anyway, and it is from about 200 on that checking and hashing gain more."""


@dataclass(frozen=True)
class Decoded:
    """What a run of records holds, in log order: events with their origin, and what could not be read."""

    records: Sequence[Record]
    source: Events
    record: I64s
    index: I64s
    bad: list[Bad]

    def __len__(self) -> int:
        return len(self.record)

    @cached_property
    def events(self) -> pa.RecordBatch:
        """The events as columns; made when first asked for."""
        return _columns(self.source) if isinstance(self.source, list) else self.source


def decode(records: Sequence[Record]) -> Decoded:
    """Read every record; what cannot be read becomes a `Bad`, never an exception."""
    bad: list[Bad] = []
    parts: list[Events] = []
    record_of: list[I64s] = []
    index_of: list[I64s] = []
    run: list[Event] = []
    run_records: list[int] = []

    def close_run() -> None:
        if run:
            parts.append(run.copy())
            record_of.append(np.array(run_records, dtype=np.int64))
            index_of.append(np.zeros(len(run), dtype=np.int64))
            run.clear()
            run_records.clear()

    for n, record in enumerate(records):
        if record.form == PACK:
            close_run()
            try:
                batch = decode_pack(record.value)
            except ValueError as error:
                bad.append(Bad(n, 0, f"unreadable pack: {error}"[:500], record.value[:BAD_BYTES_MAX]))
                continue
            if not batch.num_rows:
                continue
            parts.append(batch)
            record_of.append(np.full(batch.num_rows, n, dtype=np.int64))
            index_of.append(np.arange(batch.num_rows, dtype=np.int64))
        else:
            try:
                run.append(decode_event(record.value))
                run_records.append(n)
            except ValueError as error:
                bad.append(Bad(n, 0, f"unreadable event: {error}"[:500], record.value[:BAD_BYTES_MAX]))
    close_run()
    return Decoded(records, _joined(parts), _end_to_end(record_of), _end_to_end(index_of), bad)


def _end_to_end(parts: list[I64s]) -> I64s:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _joined(parts: list[Events]) -> Events:
    if not parts:
        return []
    if len(parts) == 1 and (isinstance(parts[0], pa.RecordBatch) or len(parts[0]) < COLUMNS_FROM):
        return parts[0]
    batches = [_columns(part) if isinstance(part, list) else part for part in parts]
    return pa.Table.from_batches(batches, EVENT_SCHEMA).combine_chunks().to_batches()[0]


def taken(events: Events, rows: I64s) -> Events:
    """Some of the events, in this order."""
    return [events[row] for row in rows.tolist()] if isinstance(events, list) else events.take(pa.array(rows))


def decode_event(body: bytes) -> Event:
    """One JSON event. Raises ValueError (msgspec's message names the field); the text of one with unknown fields is kept in `extra`."""
    if len(body) > VALUE_BYTES_MAX:
        raise ValueError(f"{len(body)} bytes, the bound is {VALUE_BYTES_MAX}")
    try:
        try:
            return _strict.decode(body)
        except msgspec.ValidationError:
            event = _lenient.decode(body)
            event.extra = body.decode()
            return event
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def decode_pack(body: bytes) -> pa.RecordBatch:
    """One Arrow IPC stream of one batch in EVENT_SCHEMA. Raises ValueError on anything else."""
    if len(body) > VALUE_BYTES_MAX:
        raise ValueError(f"{len(body)} bytes, the bound is {VALUE_BYTES_MAX}")
    try:
        _check_messages(body)
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            if not reader.schema.equals(EVENT_SCHEMA):
                raise ValueError("its schema is not the event schema")
            batch = reader.read_next_batch()
            if batch.num_rows > PACK_EVENTS_MAX:
                raise ValueError(f"{batch.num_rows} events, the bound is {PACK_EVENTS_MAX}")
            batch.validate()  # the sizes of buffers: nbytes follows offsets, and one of them may lead out of its buffer
            if batch.nbytes > PACK_BYTES_MAX:
                raise ValueError(f"{batch.nbytes} bytes of columns, the bound is {PACK_BYTES_MAX}")
            batch.validate(full=True)
    except StopIteration as error:
        raise ValueError("it holds no batch") from error
    except (pa.ArrowException, OSError, MemoryError, OverflowError, struct.error) as error:
        raise ValueError(str(error)) from error
    return batch


def _check_messages(body: bytes) -> None:
    """Raise ValueError unless the stream holds one batch that says it takes at most PACK_BYTES_MAX: nothing is decompressed yet."""
    batches = [message for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(body)) if message.type == "record batch"]
    if len(batches) != 1:
        raise ValueError(f"it holds {len(batches)} batches, not one")
    declared = _declared_bytes(batches[0].metadata.to_pybytes(), memoryview(batches[0].body or b""))
    if declared > PACK_BYTES_MAX:
        raise ValueError(f"{declared} bytes of columns once decompressed, the bound is {PACK_BYTES_MAX}")


def _declared_bytes(metadata: bytes, body: memoryview) -> int:
    """Bytes of a batch's buffers after decompression, as each compressed buffer's first eight bytes say; 0 when none is.

    Arrow allocates that much before it decompresses, and has no bound of its own. Source: Arrow's Message.fbs, `BodyCompression`;
    Arrow has verified the flatbuffer when it hands out its bytes.
    """

    def number(form: str, at: int) -> int:
        return int(struct.unpack_from(form, metadata, at)[0])

    def field(table: int, slot: int) -> int:
        vtable = table - number("<i", table)
        offset = number("<H", vtable + 4 + 2 * slot) if 4 + 2 * slot < number("<H", vtable) else 0
        return table + offset if offset else 0

    def target(at: int) -> int:
        return at + number("<I", at)

    batch = target(field(target(0), 2))
    buffers, compression = field(batch, 2), field(batch, 3)
    if not compression or not buffers:
        return 0
    total, vector = 0, target(buffers)
    for row in range(number("<I", vector)):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * row)
        if length >= 8 and 0 <= offset <= len(body) - 8:
            total += max(0, int(struct.unpack_from("<q", body, offset)[0]))
    return total


def encode_event(event: Event) -> bytes:
    """The JSON form."""
    return msgspec.json.encode(event)


def encode_pack(events: Sequence[Event] | pa.RecordBatch) -> bytes:
    """The Arrow form. Raises ValueError above PACK_EVENTS_MAX events or VALUE_BYTES_MAX bytes."""
    batch = events if isinstance(events, pa.RecordBatch) else _columns(events)
    if batch.num_rows > PACK_EVENTS_MAX:
        raise ValueError(f"{batch.num_rows} events in one pack, the bound is {PACK_EVENTS_MAX}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, EVENT_SCHEMA) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    if len(body) > VALUE_BYTES_MAX:
        raise ValueError(f"a pack of {len(body)} bytes is above the bound of {VALUE_BYTES_MAX}: put fewer events in it")
    return body


def _columns(events: Sequence[Event]) -> pa.RecordBatch:
    encode = msgspec.json.encode
    values: list[list[Any]] = [  # one list a field, as pyarrow takes them
        [e.event_id for e in events],
        [e.user_id for e in events],
        [e.action for e in events],
        [e.ts_ms for e in events],
        [e.item_id for e in events],
        [e.surface for e in events],
        [e.session_id for e in events],
        [e.collection_id for e in events],
        [e.source_item_id for e in events],
        [e.shown or None for e in events],
        [e.query for e in events],
        [e.dwell_ms for e in events],
        [e.value for e in events],
        [encode(e.context).decode() if e.context else None for e in events],
        [e.schema for e in events],
        [e.extra for e in events],
    ]
    size = len(events)
    arrays = [
        pa.array(column, field.type) if column.count(None) < size else _nulls(field.type, size)
        for column, field in zip(values, EVENT_SCHEMA, strict=True)
    ]
    return pa.record_batch(arrays, schema=EVENT_SCHEMA)


@lru_cache(maxsize=256)
def _nulls(kind: pa.DataType, size: int) -> pa.Array:
    """A column that nobody filled: most are, and the same ones come again."""
    return pa.nulls(size, kind)
