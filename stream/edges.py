"""Edges on their way: from the partition of the user who made them to the partitions of the nodes they belong to.

In a cluster co-engagement leaves ingest through the topic `edges`. All edges of one commit for one partition travel in one
message, those of small commits that go together in the same one; what is too large for one is cut between events, and a part
is sent only when the one before is acknowledged. Each edge names the event that made it (`at`), and the consumer keeps, for
each upstream partition, how far it has come: what a crash or a paused twin sends again is dropped.

    rounds = split([Made(upstream, edges, at)], partitions); parcels = decode_edges(message.value)
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
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
SECTIONS_MAX: Final = 4096
"""Upstreams of one message."""
_HEAD: Final = struct.Struct("<4sI")  # magic, sections
_SECTION: Final = struct.Struct("<III")  # upstream incarnation, upstream partition, edges
_MAGIC: Final = b"edg2"
_COLUMNS: Final = (("at", "<u8"), ("nodes", "<u8"), ("targets", "<u8"), ("ts_ms", "<i8"), ("amounts", "<i4"), ("kinds", "u1"))
_BYTES: Final = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)
_BACK: Final = 0x80


@dataclass(frozen=True, order=True)
class Upstream:
    """An events partition, of one incarnation of its topic."""

    partition: int
    incarnation: int


@dataclass(frozen=True)
class Made:
    """Edges of one commit. at (N,): the place of each of its events, whose rows `edges.events` names."""

    upstream: Upstream
    edges: Edges
    at: U64s


@dataclass(frozen=True)
class Parcel:
    """Edges of one upstream in a message: `at` (E,) the place of each one's event, ascending; `items` (E,): the node is an item."""

    upstream: Upstream
    edges: Edges
    at: U64s
    items: Bools


def place(offsets: I64s, index: I64s) -> U64s:
    """An event's place in its partition as one number, ascending in log order: offset, then index in its pack."""
    return offsets.astype(np.uint64) << np.uint64(INDEX_BITS) | index.astype(np.uint64)


def split(made: Sequence[Made], partitions: int) -> Iterator[list[Entry]]:
    """Messages in rounds, one a partition of each commit, or of all where they are small: a round waits for the one before."""
    together = sum(len(one.edges) for one in made) <= EDGES_AT_ONCE and len(made) <= SECTIONS_MAX
    groups = [made] if together and made else [[one] for one in made]
    for turn in itertools.zip_longest(*(_rounds(group, partitions) for group in groups), fillvalue=[]):
        yield [entry for entries in turn for entry in entries]


def decode_edges(body: bytes) -> list[Parcel]:
    """A message back, by upstream. Raises ValueError for what is none."""
    sections, begin = _sections(body)
    count = sum(edges for _, edges in sections)
    try:
        flat = pa.decompress(memoryview(body)[begin:], count * _BYTES, codec="lz4_raw", asbytes=True)
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
    items = ~(back & (relation == IN_COLLECTION))
    if len(sections) == 1:
        return [Parcel(sections[0][0], edges, columns["at"], items)]
    ends = itertools.accumulate(size for _, size in sections)
    rows = [slice(end - size, end) for end, (_, size) in zip(ends, sections, strict=True)]
    return [
        Parcel(upstream, _part(edges, here), columns["at"][here], items[here]) for here, (upstream, _) in zip(rows, sections, strict=True)
    ]


def _sections(body: bytes) -> tuple[list[tuple[Upstream, int]], int]:
    """(upstream, its edges) each, and where the columns begin."""
    if len(body) < _HEAD.size:
        raise ValueError(f"{len(body)} bytes are no edges")
    magic, count = _HEAD.unpack_from(body)
    begin = _HEAD.size + count * _SECTION.size
    if magic != _MAGIC or not 0 < count <= SECTIONS_MAX or len(body) < begin:
        raise ValueError(f"no edges: {len(body)} bytes that begin with {body[:4]!r} and say that they are of {count} upstreams")
    found = [(Upstream(partition, incarnation), edges) for incarnation, partition, edges in _SECTION.iter_unpack(body[_HEAD.size : begin])]
    if min(edges for _, edges in found) < 1 or sum(edges for _, edges in found) > EDGES_AT_ONCE:
        raise ValueError(f"edges of which there are {[edges for _, edges in found]} by upstream: 1 to {EDGES_AT_ONCE} in all are allowed")
    return found, begin


def _rounds(made: Sequence[Made], partitions: int) -> Iterator[list[Entry]]:
    """Of one commit, or of several that are small enough for one round."""
    edges, at, back = _flat(made)
    to, begins = node_partition(edges.nodes, partitions), np.cumsum([0, *(len(one.edges) for one in made)])
    parts = {partition: _cut(edges, np.flatnonzero(to == partition)) for partition in np.unique(to).tolist()}
    for turn in range(max((len(pieces) for pieces in parts.values()), default=0)):
        entries = []
        for partition, pieces in parts.items():
            if turn < len(pieces):
                rows = pieces[turn]
                sizes = np.diff(np.searchsorted(rows, begins)).tolist()
                sections = [(one.upstream, size) for one, size in zip(made, sizes, strict=True) if size]
                entries.append(Entry(partition, _encoded(sections, edges.take(rows), at[rows], back[rows])))
        yield entries


def _flat(made: Sequence[Made]) -> tuple[Edges, U64s, Bools]:
    """All edges one behind the other, the place of each one's event (E,), and which are the way back (E,)."""
    ats = [one.at[one.edges.events] for one in made]
    backs = [np.arange(len(one.edges)) % 2 == 1 for one in made]
    if len(made) == 1:
        return made[0].edges, ats[0], backs[0]
    joined = Edges(*(np.concatenate([getattr(one.edges, field.name) for one in made]) for field in fields(Edges)))
    return joined, np.concatenate(ats), np.concatenate(backs)


def _part(edges: Edges, rows: slice) -> Edges:
    return Edges(*(getattr(edges, field.name)[rows] for field in fields(Edges)))


def _cut(edges: Edges, rows: I64s) -> list[I64s]:
    """Rows in pieces of at most EDGES_AT_ONCE, cut between events."""
    pieces = []
    while len(rows) > EDGES_AT_ONCE:
        events = edges.events[rows]
        end = int(np.searchsorted(events, events[EDGES_AT_ONCE]))
        pieces.append(rows[:end])
        rows = rows[end:]
    return [*pieces, rows]


def _encoded(sections: Sequence[tuple[Upstream, int]], edges: Edges, at: U64s, back: Bools) -> bytes:
    salted = edges.nodes ^ edges.list_ids
    kinds = sum((relation * (salted == SALTS[relation]).astype(np.uint8) for relation in range(1, len(SALTS))), np.zeros(len(at), np.uint8))
    kinds |= back.astype(np.uint8) << 7
    values = {
        "at": at, "nodes": edges.nodes, "targets": edges.targets, "ts_ms": edges.ts_ms, "amounts": edges.amounts, "kinds": kinds,
    }  # fmt: skip
    flat = b"".join(values[name].astype(kind).tobytes() for name, kind in _COLUMNS)
    head = _HEAD.pack(_MAGIC, len(sections)) + b"".join(_SECTION.pack(one.incarnation, one.partition, size) for one, size in sections)
    compressed: bytes = pa.compress(flat, codec="lz4_raw", asbytes=True)
    return head + compressed
