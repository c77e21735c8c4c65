"""Bytes to columns and back: one JSON event per message, or up to a thousand in one Arrow pack.

Both are untrusted. A pack is bounded before and after decompression, its schema compared and its buffers validated
before anything reads them: one altered offset would otherwise be a segmentation fault.

    decoded = decode(records); pack = encode_pack(events)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True)
class Decoded:
    """What a run of records holds, in log order: events as columns with their origin, and what could not be read."""

    records: Sequence[Record]
    events: pa.RecordBatch
    record: I64s
    index: I64s
    bad: list[Bad]


def decode(records: Sequence[Record]) -> Decoded:
    """Read every record; what cannot be read becomes a `Bad`, never an exception."""
    bad: list[Bad] = []
    parts: list[pa.RecordBatch] = []
    record_of: list[I64s] = []
    index_of: list[I64s] = []
    run: list[Event] = []
    run_records: list[int] = []

    def close_run() -> None:
        if run:
            parts.append(_columns(run))
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
    events = parts[0] if len(parts) == 1 else pa.Table.from_batches(parts, EVENT_SCHEMA).combine_chunks().to_batches()[0] if parts else _columns([])
    nothing = np.empty(0, dtype=np.int64)
    return Decoded(records, events, np.concatenate([nothing, *record_of]), np.concatenate([nothing, *index_of]), bad)


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
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            if not reader.schema.equals(EVENT_SCHEMA):
                raise ValueError("its schema is not the event schema")
            batch = reader.read_next_batch()
            if batch.num_rows > PACK_EVENTS_MAX:
                raise ValueError(f"{batch.num_rows} events, the bound is {PACK_EVENTS_MAX}")
            if batch.nbytes > PACK_BYTES_MAX:
                raise ValueError(f"{batch.nbytes} bytes of columns, the bound is {PACK_BYTES_MAX}")
            batch.validate(full=True)
    except StopIteration as error:
        raise ValueError("it holds no batch") from error
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return batch


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
    values = [
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
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(values, EVENT_SCHEMA, strict=True)], schema=EVENT_SCHEMA)
