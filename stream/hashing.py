"""Event columns with their strings replaced by ids, and the names this makes known.

hashed = hash_columns(events, origins, names, shape)
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import I64s, U64s
from storage.ids import COLLECTION, EVENT, ITEM, QUERY, USER, hash_ids
from storage.names import Names, Resolved
from storage.neighbours import node_partition
from storage.state import Write
from stream.reducers import Columns
from stream.routing import partitions_of
from stream.shape import OTHER_SURFACE, SURFACES, Shape


@dataclass(frozen=True)
class Hashed:
    """Columns of valid events, each user's partition (N,), and what the names cost: writes, and rows whose id clashed."""

    columns: Columns
    partitions: I64s
    writes: list[Write]
    fresh: list[tuple[int, dict[str, int]]]
    clashed: set[int]


def hash_columns(events: pa.RecordBatch, origins: list[str], names: Names, shape: Shape) -> Hashed:
    """Hash a validated batch. `origins` names where each row landed: the event id of a row that has none."""
    seen = _Resolver(names, shape.partitions)
    users, user_partitions = seen.users(events.column("user_id"))
    items = seen.nodes(ITEM, events.column("item_id"))
    queries = seen.nodes(QUERY, events.column("query"))
    collections = seen.nodes(COLLECTION, events.column("collection_id"))
    sources = seen.nodes(ITEM, events.column("source_item_id"))
    codes, weights = _actions(events.column("action"), shape)
    has_item = items != 0
    ts_ms = events.column("ts_ms").to_numpy().astype(np.uint64)
    stamps = ts_ms << np.uint64(16) | codes << np.uint64(8) | _surfaces(events.column("surface"))
    columns = Columns(
        users=users,
        items=np.where(has_item, items, queries),
        stamps=stamps,
        event_ids=_event_ids(events.column("event_id"), origins),
        collections=collections,
        sources=sources,
        has_item=has_item,
        weight=np.where(has_item, weights, 0),
    )
    return Hashed(columns, user_partitions, seen.writes, seen.fresh, seen.clashed)


class _Resolver:
    """Collects what resolving several columns costs."""

    def __init__(self, names: Names, partitions: int) -> None:
        self._names = names
        self._partitions = partitions
        self.writes: list[Write] = []
        self.fresh: list[tuple[int, dict[str, int]]] = []
        self.clashed: set[int] = set()

    def users(self, column: pa.StringArray) -> tuple[U64s, I64s]:
        encoded = column.dictionary_encode()
        where = partitions_of(encoded.dictionary, self._partitions)
        resolved = self._names.resolve(USER, encoded.dictionary.to_pylist(), where)
        rows = encoded.indices.to_numpy()
        self._take(USER, resolved, rows)
        return resolved.ids[rows], where[rows]

    def nodes(self, kind: int, column: pa.StringArray) -> U64s:
        if column.null_count == len(column):
            return np.zeros(len(column), dtype=np.uint64)
        encoded = column.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        spread = self._partitions > 1
        where = node_partition(hash_ids(distinct, kind), self._partitions) if spread else np.zeros(len(distinct), dtype=np.int64)
        resolved = self._names.resolve(kind, distinct, where)
        rows: I64s = pc.fill_null(encoded.indices, len(distinct)).to_numpy()
        self._take(kind, resolved, rows)
        return np.append(resolved.ids, np.uint64(0))[rows]

    def _take(self, kind: int, resolved: Resolved, rows: I64s) -> None:
        self.writes += resolved.writes
        if resolved.fresh:
            self.fresh.append((kind, resolved.fresh))
        if resolved.clashes:
            self.clashed |= set(np.flatnonzero(np.isin(rows, resolved.clashes)).tolist())


def _event_ids(column: pa.StringArray, origins: list[str]) -> U64s:
    given = column.to_pylist()
    return hash_ids(given if column.null_count == 0 else [name or origin for name, origin in zip(given, origins, strict=True)], EVENT)


def _actions(column: pa.StringArray, shape: Shape) -> tuple[U64s, I64s]:
    encoded = column.dictionary_encode()
    known = [shape.actions[name] for name in encoded.dictionary.to_pylist()]
    rows = encoded.indices.to_numpy()
    codes = np.array([action.code for action in known], dtype=np.uint64)
    weights = np.array([action.weight if action.positive else 0 for action in known], dtype=np.int64)
    return codes[rows], weights[rows]


def _surfaces(column: pa.StringArray) -> U64s:
    if column.null_count == len(column):
        return np.zeros(len(column), dtype=np.uint64)
    encoded = column.dictionary_encode()
    codes = [SURFACES.index(name) + 1 if name in SURFACES else OTHER_SURFACE for name in encoded.dictionary.to_pylist()]
    rows: I64s = pc.fill_null(encoded.indices, len(codes)).to_numpy()
    return np.array([*codes, 0], dtype=np.uint64)[rows]
