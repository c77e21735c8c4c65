"""Events with their strings replaced by ids, as columns, and the names this makes known.

hashed = hash_events(events, origin, names, shape)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import I64s, U64s
from storage.ids import COLLECTION, EVENT, ITEM, QUERY, USER, hash_ids
from storage.names import Names, Resolved
from storage.neighbours import node_partition
from storage.state import Write
from stream.events import Event
from stream.reducers import Columns
from stream.routing import partitions_of
from stream.shape import OTHER_SURFACE, SURFACES, Action, Shape
from stream.wire import Events

_FIELDS: Final = attrgetter(
    "user_id", "item_id", "query", "collection_id", "source_item_id", "action", "surface", "event_id", "ts_ms"
)  # fmt: skip
_SURFACE_CODES: Final = {None: 0} | {name: n for n, name in enumerate(SURFACES, start=1)}


@dataclass(frozen=True)
class Hashed:
    """Columns of valid events, each user's partition (N,), and what the names cost: writes, and rows whose id clashed."""

    columns: Columns
    partitions: I64s
    writes: list[Write]
    fresh: list[tuple[int, dict[str, int]]]
    clashed: set[int]


def hash_events(events: Events, origin: Callable[[int], str], names: Names, shape: Shape) -> Hashed:
    """Hash validated events. `origin` names where a row landed: the event id of a row that has none."""
    seen = _Resolver(names, shape.partitions)
    hashed = _of_list(events, origin, seen, shape) if isinstance(events, list) else _of_batch(events, origin, seen, shape)
    return Hashed(*hashed, seen.writes, seen.fresh, seen.clashed)


def _of_list(events: list[Event], origin: Callable[[int], str], seen: "_Resolver", shape: Shape) -> tuple[Columns, I64s]:
    """The columns of single events, and each user's partition. Array by array one event would take ten times as long."""
    taken = list(zip(*map(_FIELDS, events), strict=True)) or [()] * 9
    users, items, queries, collections, sources, actions, surfaces, event_ids, times = taken
    acted = [shape.actions[name] for name in actions]
    places = [_SURFACE_CODES.get(name, OTHER_SURFACE) for name in surfaces]
    user_ids, partitions = seen.listed_users(users)
    item_ids, query_ids = seen.listed(ITEM, items), seen.listed(QUERY, queries)
    columns = Columns(
        users=user_ids,
        items=_ids([item or query for item, query in zip(item_ids, query_ids, strict=True)]),
        stamps=_ids([ts_ms << 16 | action.code << 8 | place for ts_ms, action, place in zip(times, acted, places, strict=True)]),
        event_ids=_event_ids(event_ids, origin),
        collections=_ids(seen.listed(COLLECTION, collections)),
        sources=_ids(seen.listed(ITEM, sources)),
        has_item=np.array([item != 0 for item in item_ids], dtype=np.bool_),
        weight=np.array([_weight(action) if item else 0 for action, item in zip(acted, item_ids, strict=True)], dtype=np.int64),
    )
    return columns, partitions


def _ids(values: Sequence[int]) -> U64s:
    return np.array(values, dtype=np.uint64)


def _of_batch(events: pa.RecordBatch, origin: Callable[[int], str], seen: "_Resolver", shape: Shape) -> tuple[Columns, I64s]:
    """The columns of a pack, and each user's partition: text by distinct text."""
    numbered = partial(_numbered, events)
    users, partitions = seen.users(numbered("user_id"))
    items = seen.nodes(ITEM, numbered("item_id"))
    queries = seen.nodes(QUERY, numbered("query"))
    collections = seen.nodes(COLLECTION, numbered("collection_id"))
    sources = seen.nodes(ITEM, numbered("source_item_id"))
    codes, weights = _actions(numbered("action"), shape)
    has_item = items != 0
    stamps = events.column("ts_ms").to_numpy().astype(np.uint64) << np.uint64(16) | codes << np.uint64(8) | _surfaces(numbered("surface"))
    columns = Columns(
        users=users,
        items=np.where(has_item, items, queries),
        stamps=stamps,
        event_ids=_event_ids(events.column("event_id").to_pylist(), origin),
        collections=collections,
        sources=sources,
        has_item=has_item,
        weight=np.where(has_item, weights, 0),
    )
    return columns, partitions


@dataclass(frozen=True)
class _Numbered:
    """A text column as its distinct texts and each row's place among them, `len(distinct)` where there is none: (N,)."""

    distinct: list[str]
    rows: I64s

    def spread(self, values: U64s) -> U64s:
        """Each row's value of its text's; 0 where there is none."""
        return np.append(values, np.uint64(0))[self.rows]


def _numbered(events: pa.RecordBatch, name: str) -> _Numbered:
    column = events.column(name)
    if column.null_count == len(column):
        return _Numbered([], np.zeros(len(column), dtype=np.int64))
    encoded = column.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    rows = encoded.indices.to_numpy() if column.null_count == 0 else pc.fill_null(encoded.indices, len(distinct)).to_numpy()
    return _Numbered(distinct, rows)


def _of_texts(values: Sequence[str | None]) -> _Numbered:
    distinct = [text for text in dict.fromkeys(values) if text is not None]
    place: dict[str | None, int] = {text: n for n, text in enumerate(distinct)}
    place[None] = len(distinct)
    return _Numbered(distinct, np.fromiter(map(place.__getitem__, values), dtype=np.int64, count=len(values)))


class _Resolver:
    """Collects what resolving several columns costs."""

    def __init__(self, names: Names, partitions: int) -> None:
        self._names = names
        self._partitions = partitions
        self.writes: list[Write] = []
        self.fresh: list[tuple[int, dict[str, int]]] = []
        self.clashed: set[int] = set()

    def listed_users(self, texts: Sequence[str]) -> tuple[U64s, I64s]:
        """Ids and partitions of users, in order."""
        ids = self._names.known(USER, texts)
        if self._partitions > 1 or 0 in ids:
            return self.users(_of_texts(texts))
        return _ids(ids), np.zeros(len(ids), dtype=np.int64)

    def listed(self, kind: int, texts: Sequence[str | None]) -> list[int]:
        """Ids of nodes in order, 0 where there is none."""
        ids = self._names.known(kind, texts)
        if ids.count(0) > texts.count(None):
            ids = self.nodes(kind, _of_texts(texts)).tolist()
        return ids

    def users(self, column: _Numbered) -> tuple[U64s, I64s]:
        one = self._partitions == 1
        where = np.zeros(len(column.distinct), np.int64) if one else partitions_of(pa.array(column.distinct, pa.string()), self._partitions)
        resolved = self._names.resolve(USER, column.distinct, where)
        self._take(USER, resolved, column.rows)
        return resolved.ids[column.rows], where[column.rows]

    def nodes(self, kind: int, column: _Numbered) -> U64s:
        distinct = column.distinct
        if not distinct:
            return np.zeros(len(column.rows), dtype=np.uint64)
        if self._partitions > 1:
            hashed = hash_ids(distinct, kind)
            resolved = self._names.resolve(kind, distinct, node_partition(hashed, self._partitions), hashed=hashed)
        else:
            resolved = self._names.resolve(kind, distinct, np.zeros(len(distinct), dtype=np.int64))
        self._take(kind, resolved, column.rows)
        return column.spread(resolved.ids)

    def _take(self, kind: int, resolved: Resolved, rows: I64s) -> None:
        self.writes += resolved.writes
        if resolved.fresh:
            self.fresh.append((kind, resolved.fresh))
        if resolved.clashes:
            self.clashed |= set(np.flatnonzero(np.isin(rows, resolved.clashes)).tolist())


def _event_ids(given: Sequence[str | None], origin: Callable[[int], str]) -> U64s:
    return hash_ids([name if name is not None else origin(row) for row, name in enumerate(given)], EVENT)


def _actions(column: _Numbered, shape: Shape) -> tuple[U64s, I64s]:
    known = [shape.actions[name] for name in column.distinct]
    codes = np.array([action.code for action in known], dtype=np.uint64)
    weights = np.array([_weight(action) for action in known], dtype=np.int64)
    return codes[column.rows], weights[column.rows]


def _weight(action: Action) -> int:
    return action.weight if action.positive else 0


def _surfaces(column: _Numbered) -> U64s:
    if not column.distinct:
        return np.zeros(len(column.rows), dtype=np.uint64)
    return column.spread(_ids([_SURFACE_CODES.get(name, OTHER_SURFACE) for name in column.distinct]))
