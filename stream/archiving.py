"""Decoded records to archive rows and back, so that a replay decides everything again from the same bytes.

archive.add(archive_rows(decoded)); decoded = from_archive(table)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from storage.arrays import I64s
from storage.columns import ARCHIVE_SCHEMA, EVENT_SCHEMA
from storage.log import JSON, PACK, Record
from stream.events import Event
from stream.wire import Bad, Decoded


def archive_rows(decoded: Decoded) -> pa.RecordBatch:
    """One row an event, one an unreadable message (`bad`, `reason`), one a pack of no events (index -1), in log order.

    So every record has a row, and the archive ends where the log does.
    """
    bad = decoded.bad
    record = np.concatenate([decoded.record, np.array([b.record for b in bad], dtype=np.int64)])
    empty = np.flatnonzero(np.bincount(record, minlength=len(decoded.records)) == 0)
    extra = len(bad) + len(empty)
    record = np.concatenate([record, empty])
    index = np.concatenate([decoded.index, np.array([b.index for b in bad], dtype=np.int64), np.full(len(empty), -1)])
    order = np.lexsort((index, record)) if extra else None
    number, partition, offset, append_ms = (column[record] for column in origins(decoded.records))
    blank = decoded.events.num_rows
    columns: list[pa.Array] = [
        pa.array(number),
        pa.array(partition.astype(np.int32)),
        pa.array(offset),
        pa.array(index.astype(np.int32)),
        pa.array(append_ms),
        pa.concat_arrays([pa.nulls(blank, pa.binary()), pa.array([b.raw for b in bad] + [None] * len(empty), pa.binary())]),
        pa.concat_arrays([pa.nulls(blank, pa.string()), pa.array([b.reason for b in bad] + [None] * len(empty), pa.string())]),
    ]
    columns += [pa.concat_arrays([column, pa.nulls(extra, column.type)]) if extra else column for column in decoded.events.columns]
    rows = pa.record_batch(columns, schema=ARCHIVE_SCHEMA)
    return rows if order is None else rows.take(pa.array(order))


def origins(records: Sequence[Record]) -> list[I64s]:
    """Number, partition, offset and append time of each record, as columns."""
    columns = list(zip(*records, strict=True))[:4] if records else [()] * 4
    return [np.array(column, dtype=np.int64) for column in columns]


def from_archive(table: pa.Table) -> Decoded:
    """What `decode` would have given for these records."""
    rows = table.combine_chunks()
    numbers, partitions = rows.column("number").to_numpy(), rows.column("partition").to_numpy()
    first = (np.diff(numbers, prepend=-1) != 0) | (np.diff(partitions, prepend=-1) != 0)  # Kafka numbers each partition by itself
    begins, record = np.flatnonzero(first), np.cumsum(first) - 1
    index = rows.column("index").to_numpy().astype(np.int64)
    heads = rows.take(pa.array(begins)).select(["number", "partition", "offset", "append_ms"]).to_pydict()
    packed = np.zeros(len(begins), dtype=np.bool_)
    packed[record[index != 0]] = True
    packed |= np.bincount(record, minlength=len(begins)) > 1
    broken = np.asarray(rows.column("bad").is_valid())
    bad_rows = np.flatnonzero(broken)
    raws = dict(zip(record[bad_rows].tolist(), rows.column("bad").take(pa.array(bad_rows)).to_pylist(), strict=True))
    reasons = rows.column("reason").take(pa.array(bad_rows)).to_pylist()
    records = [
        Record(number, partition, offset, append_ms, PACK if packed[n] else JSON, raws.get(n, b""))
        for n, (number, partition, offset, append_ms) in enumerate(zip(*heads.values(), strict=True))
    ]
    bad = [Bad(int(record[row]), int(index[row]), reason, raws[int(record[row])]) for row, reason in zip(bad_rows, reasons, strict=True)]
    good = np.flatnonzero(~broken & (index >= 0))
    events = rows.select(EVENT_SCHEMA.names).take(pa.array(good)).combine_chunks().to_batches()
    batch = events[0] if events else pa.RecordBatch.from_pylist([], EVENT_SCHEMA)
    return Decoded(records, batch, record[good].astype(np.int64), index[good], bad)


def row_by_row(table: pa.Table) -> Iterator[Decoded]:
    """The same, an archive row at a time; an event as an object, which is applied alone in half the time that columns of one take."""
    whole = from_archive(table)
    row_of = {at: row for row, at in enumerate(zip(whole.record.tolist(), whole.index.tolist(), strict=True))}
    bad_of = {(bad.record, bad.index): bad for bad in whole.bad}
    events = [_event(values) for values in whole.events.to_pylist()]
    first = np.zeros(1, dtype=np.int64)
    for at in _places(table):
        records, bad = [whole.records[at[0]]], bad_of.get(at)
        row = row_of.get(at)
        if row is None:
            yield Decoded(records, [], first[:0], first[:0], [replace(bad, record=0)] if bad is not None else [])
            continue
        event = events[row]
        source: list[Event] | pa.RecordBatch = [event] if event is not None else whole.events.slice(row, 1)
        yield Decoded(records, source, first, whole.index[row : row + 1], [])


def _places(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Of each row, which record of the table it belongs to, and its index there."""
    numbers, partitions = (table.column(name).to_numpy() for name in ("number", "partition"))
    first = (np.diff(numbers, prepend=-1) != 0) | (np.diff(partitions, prepend=-1) != 0)
    return zip((np.cumsum(first) - 1).tolist(), table.column("index").to_pylist(), strict=True)


def _event(values: dict[str, Any]) -> Event | None:
    """The event of a row; None for one that is none as it stands: that is validation's to refuse, over columns."""
    held = {name: value for name, value in values.items() if value is not None}
    try:
        if "context" in held:
            held["context"] = msgspec.json.decode(held["context"])
        return msgspec.convert(held, Event)
    except ValueError:
        return None
