"""A batch of several partitions, reduced at once, as one batch of each partition, which are committed each by itself.

To reduce costs about as much for ten events as for a hundred, so small batches are reduced together. What comes of one
partition depends on no other: its users, its counts and the names that its events mention.

    for partition, prepared in parted(ingest.prepare(decode(records))): ...
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise

import numpy as np

from storage.state import NAMES, Write
from stream.hashing import Hashed
from stream.ingest import Prepared
from stream.reducers import Columns, Edges
from stream.wire import Decoded, Events


def parted(prepared: Prepared) -> Iterator[tuple[int, Prepared]]:
    """(partition, its part), in order. The records of a partition lie together."""
    records = prepared.decoded.records
    where = np.array([record.partition for record in records], dtype=np.int64)
    begins = np.flatnonzero(np.diff(where, prepend=-1)).tolist()
    assert len(begins) == len(set(where.tolist())), "the records of a partition lie together"
    if len(begins) == 1:
        yield int(where[0]), prepared
        return
    mentioned = _ids(prepared.hashed.columns)
    for begin, end in pairwise([*begins, len(records)]):
        yield int(where[begin]), _part(prepared, int(where[begin]), begin, end, mentioned)


def _part(prepared: Prepared, partition: int, begin: int, end: int, mentioned: set[int]) -> Prepared:
    """What came of records `begin` to `end`: rows, valid rows and edges ascend with the records. `mentioned`: ids in any column."""
    decoded, edges = prepared.decoded, prepared.edges
    first, last = np.searchsorted(decoded.record, [begin, end]).tolist()
    valid, valid_end = np.searchsorted(prepared.rows, [first, last]).tolist()
    edge, edge_end = np.searchsorted(edges.events, [valid, valid_end]).tolist()
    of_edges = [getattr(edges, one.name)[edge:edge_end] for one in fields(Edges)]
    of_edges[-1] = of_edges[-1] - valid
    columns = Columns(*(getattr(prepared.hashed.columns, one.name)[valid:valid_end] for one in fields(Columns)))
    hashed = _hashed(prepared.hashed, columns, slice(valid, valid_end), mentioned)
    counted = prepared.counted_in == partition
    return Prepared(
        Decoded(
            records=decoded.records[begin:end],
            source=_slice(decoded.source, first, last),
            record=decoded.record[first:last] - begin,
            index=decoded.index[first:last],
            bad=[type(bad)(bad.record - begin, bad.index, bad.reason, bad.raw) for bad in decoded.bad if begin <= bad.record < end],
        ),
        hashed,
        [letter for letter in prepared.letters if letter.partition == partition],
        prepared.applied[valid:valid_end],
        Edges(*of_edges),
        prepared.rows[valid:valid_end] - first,
        hashed.writes + [write for write in prepared.writes if write.table != NAMES and write.partition == partition],
        prepared.items[counted],
        prepared.counts[counted],
        prepared.counted_in[counted],
    )


def _hashed(whole: Hashed, columns: Columns, rows: slice, mentioned: set[int]) -> Hashed:
    """Without the names that only other parts' events hold: those may never be written. A query beside an item is in no column."""
    if not whole.writes and not whole.fresh:
        return Hashed(columns, whole.partitions[rows], [])
    others = mentioned - _ids(columns)
    writes = [named for write in whole.writes if len((named := _without(write, others)).ids)]
    fresh = [(kind, {name: node for name, node in names.items() if node not in others}) for kind, names in whole.fresh]
    return Hashed(columns, whole.partitions[rows], [], writes, fresh)


def _ids(columns: Columns) -> set[int]:
    return {*columns.users.tolist(), *columns.items.tolist(), *columns.collections.tolist(), *columns.sources.tolist()}


def _without(write: Write, ids: set[int]) -> Write:
    kept = [row for row, node in enumerate(write.ids.tolist()) if node not in ids]
    if len(kept) == len(write.ids):
        return write
    return Write(write.table, write.partition, write.ids[kept], [write.values[row] for row in kept])


def _slice(events: Events, begin: int, end: int) -> Events:
    return events[begin:end] if isinstance(events, list) else events.slice(begin, end - begin)
