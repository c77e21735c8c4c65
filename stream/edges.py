"""Edges on their way: from the partition of the user who made them to the partitions of the nodes they belong to.

In a cluster co-engagement leaves ingest through the topic `edges`. All edges of one commit for one partition travel in one
message; what is too large for one is cut between events, and a part is sent only when the one before is acknowledged. Each
edge names the event that made it (`at`), and the consumer keeps, for each upstream partition, how far it has come: what a
crash or a paused twin sends again is dropped.

    messages = split(upstream, edges, at, partitions); parcel = decode_edges(message.value)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from storage.arrays import Bools, I64s, U64s
from storage.log import Entry
from storage.neighbours import IN_COLLECTION, SALTS, node_partition
from stream.reducers import Edges

EDGES: Final = "edges"
EDGES_AT_ONCE: Final = 24_000
"""In one message: 37 bytes each before compression, so always below a record's bound."""
INDEX_BITS: Final = 16
_HEAD: Final = struct.Struct("<4sIII")  # magic, upstream incarnation, upstream partition, edges
_MAGIC: Final = b"edg1"
_COLUMNS: Final = (("at", "<u8"), ("nodes", "<u8"), ("targets", "<u8"), ("ts_ms", "<i8"), ("amounts", "<i4"), ("kinds", "u1"))
_BYTES: Final = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)
_BACK: Final = 0x80


@dataclass(frozen=True, order=True)
class Upstream:
    """An events partition, of one incarnation of its topic."""

    partition: int
    incarnation: int


@dataclass(frozen=True)
class Parcel:
    """One message: edges of one upstream, `at` (E,) the place of each one's event, ascending; `items` (E,): the node is an item."""

    upstream: Upstream
    edges: Edges
    at: U64s
    items: Bools


def place(offsets: I64s, index: I64s) -> U64s:
    """An event's place in its partition as one number, ascending in log order: offset, then index in its pack."""
    return offsets.astype(np.uint64) << np.uint64(INDEX_BITS) | index.astype(np.uint64)


def split(upstream: Upstream, edges: Edges, at: U64s, partitions: int) -> Iterator[list[Entry]]:
    """Messages in rounds: within a round one a partition, and a round is sent when the one before is acknowledged.

    at (N,): the place of each event of the commit, whose rows `edges.events` names.
    """
    back = np.arange(len(edges)) % 2 == 1
    to = node_partition(edges.nodes, partitions)
    parts = {partition: _cut(edges, np.flatnonzero(to == partition)) for partition in np.unique(to).tolist()}
    for turn in range(max((len(pieces) for pieces in parts.values()), default=0)):
        yield [
            Entry(partition, _encoded(upstream, edges.take(pieces[turn]), at[edges.events[pieces[turn]]], back[pieces[turn]]))
            for partition, pieces in parts.items()
            if turn < len(pieces)
        ]


def decode_edges(body: bytes) -> Parcel:
    """A message back. Raises ValueError for what is none."""
    if len(body) < _HEAD.size:
        raise ValueError(f"{len(body)} bytes are no edges")
    magic, incarnation, partition, count = _HEAD.unpack_from(body)
    if magic != _MAGIC or not 0 < count <= EDGES_AT_ONCE:
        raise ValueError(f"no edges: it begins with {body[:4]!r} and says it holds {count}")
    try:
        flat = pa.decompress(memoryview(body)[_HEAD.size :], count * _BYTES, codec="lz4_raw", asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"edges that cannot be decompressed: {error}") from error
    if len(flat) != count * _BYTES:
        raise ValueError(f"{len(flat)} bytes for {count} edges, not {count * _BYTES}")
    columns, begin = {}, 0
    for name, kind in _COLUMNS:
        columns[name] = np.frombuffer(flat, dtype=kind, count=count, offset=begin)
        begin += columns[name].nbytes
    relation = columns["kinds"] & (_BACK - 1)
    if relation.max() >= len(SALTS):
        raise ValueError(f"an edge of relation {relation.max()}, which this freshet does not know")
    back = columns["kinds"] & _BACK != 0
    nodes, events = columns["nodes"], np.zeros(count, np.int64)
    edges = Edges(nodes, nodes ^ SALTS[relation], columns["targets"], columns["amounts"].astype(np.int64), columns["ts_ms"], events)
    return Parcel(Upstream(partition, incarnation), edges, columns["at"], ~(back & (relation == IN_COLLECTION)))


def _cut(edges: Edges, rows: I64s) -> list[I64s]:
    """Rows in pieces of at most EDGES_AT_ONCE, cut between events."""
    pieces = []
    while len(rows) > EDGES_AT_ONCE:
        events = edges.events[rows]
        end = int(np.searchsorted(events, events[EDGES_AT_ONCE]))
        pieces.append(rows[:end])
        rows = rows[end:]
    return [*pieces, rows]


def _encoded(upstream: Upstream, edges: Edges, at: U64s, back: Bools) -> bytes:
    salted = edges.nodes ^ edges.list_ids
    kinds = sum((relation * (salted == SALTS[relation]).astype(np.uint8) for relation in range(1, len(SALTS))), np.zeros(len(at), np.uint8))
    kinds |= back.astype(np.uint8) << 7
    values = {
        "at": at, "nodes": edges.nodes, "targets": edges.targets, "ts_ms": edges.ts_ms, "amounts": edges.amounts, "kinds": kinds,
    }  # fmt: skip
    flat = b"".join(values[name].astype(kind).tobytes() for name, kind in _COLUMNS)
    head = _HEAD.pack(_MAGIC, upstream.incarnation, upstream.partition, len(at))
    compressed: bytes = pa.compress(flat, codec="lz4_raw", asbytes=True)
    return head + compressed
