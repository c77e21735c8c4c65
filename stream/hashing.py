"""Events with their strings replaced by ids, as columns, and the names this makes known.

hashed = hash_events(events, origin, names, shape); hashed = hashed.named(read_tables(state, hashed.asked()))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

import numpy as np
import pyarrow as pa

from storage.arrays import I64s, U64s
from storage.ids import COLLECTION, EVENT, ITEM, QUERY, USER, hash_id, hash_ids, hash_laid
from storage.names import Named, Names, Strange, resolved
from storage.neighbours import node_partition
from storage.state import NAMES, Write
from storage.xxh3 import laid_out
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
    """Columns of valid events, each user's partition (N,), and the names that were not met lately.

    `named` tells what these cost: writes, names to learn, and rows whose id clashed.
    """

    columns: Columns
    partitions: I64s
    strange: list[Strange]
    writes: list[Write] = field(default_factory=list)
    fresh: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    clashed: frozenset[int] = frozenset()

    def asked(self) -> list[tuple[str, I64s, U64s]]:
        """What must be read for it, for `read_tables`."""
        return [(NAMES, strange.partitions, strange.ids) for strange in self.strange]

    def named(self, stored: Sequence[Sequence[bytes | None]]) -> "Hashed":
        """The same, given what was read."""
        found = [(strange.kind, resolved(strange, blobs)) for strange, blobs in zip(self.strange, stored, strict=True)]
        return replace(
            self, strange=[],
            writes=[write for _, one in found for write in one.writes],
            fresh=[(kind, one.fresh) for kind, one in found if one.fresh],
            clashed=frozenset(row for _, one in found for row in one.clashes),
        )  # fmt: skip


def hash_events(events: Events, origin: Callable[[int], str], names: Names, shape: Shape) -> Hashed:
    """Hash validated events. `origin` names where a row landed: the event id of a row that has none."""
    seen = _Names(names, shape.partitions)
    columns, partitions = _of_list(events, origin, seen, shape) if isinstance(events, list) else _of_batch(events, origin, seen, shape)
    return Hashed(columns, partitions, seen.strange)


def _of_list(events: list[Event], origin: Callable[[int], str], seen: "_Names", shape: Shape) -> tuple[Columns, I64s]:
    """The columns of single events, and each user's partition. Actions and surfaces array by array would cost one event too much."""
    taken = list(zip(*map(_FIELDS, events), strict=True)) or [()] * 9
    users, items, queries, collections, sources, actions, surfaces, event_ids, times = taken
    acted = [shape.actions[name] for name in actions]
    places = [_SURFACE_CODES.get(name, OTHER_SURFACE) for name in surfaces]
    stamps = [ts_ms << 16 | action.code << 8 | place for ts_ms, action, place in zip(times, acted, places, strict=True)]
    texts = [_texts(column) for column in (users, items, queries, collections, sources)]
    weights = np.array([_weight(action) for action in acted], dtype=np.int64)
    named = [hash_id(name if name is not None else origin(row), EVENT) for row, name in enumerate(event_ids)]
    return _columns(texts, np.array(named, dtype=np.uint64), np.array(stamps, dtype=np.uint64), weights, seen)


def _of_batch(events: pa.RecordBatch, origin: Callable[[int], str], seen: "_Names", shape: Shape) -> tuple[Columns, I64s]:
    """The columns of a pack, and each user's partition."""
    codes, weights = _actions(events.column("action").dictionary_encode(), shape)
    times, places = events.column("ts_ms").to_numpy().astype(np.uint64), _surfaces(events.column("surface"))
    stamps = times << np.uint64(16) | codes << np.uint64(8) | places
    texts = [events.column(name) for name in ("user_id", "item_id", "query", "collection_id", "source_item_id")]
    return _columns(texts, _event_ids(events.column("event_id"), origin), stamps, weights, seen)


def _columns(texts: Sequence[pa.StringArray | None], event_ids: U64s, stamps: U64s, weights: I64s, seen: "_Names") -> tuple[Columns, I64s]:
    """Users, items, queries, collections and sources as ids; None for a column of nothing."""
    users, partitions = seen.users(texts[0])
    count = len(stamps)
    items, queries = seen.nodes(ITEM, texts[1], count), seen.nodes(QUERY, texts[2], count)
    has_item = items != 0
    columns = Columns(
        users=users,
        items=np.where(has_item, items, queries),
        stamps=stamps,
        event_ids=event_ids,
        collections=seen.nodes(COLLECTION, texts[3], count),
        sources=seen.nodes(ITEM, texts[4], count),
        has_item=has_item,
        weight=np.where(has_item, weights, 0),
    )
    return columns, partitions


class _Names:
    """Collects the names of several columns that were not met lately."""

    def __init__(self, names: Names, partitions: int) -> None:
        self._names, self._partitions = names, partitions
        self.strange: list[Strange] = []

    def users(self, texts: pa.StringArray | None) -> tuple[U64s, I64s]:
        """Ids and partitions (N,); None where there is no event."""
        if texts is None:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        column, where = Named.of(USER, texts), partitions_of(texts, self._partitions)
        self._ask(column, where)
        return column.ids, where

    def nodes(self, kind: int, texts: pa.StringArray | None, count: int) -> U64s:
        """Ids (N,), 0 where there is none."""
        if texts is None or texts.null_count == count:
            return np.zeros(count, dtype=np.uint64)
        column = Named.of(kind, texts)
        self._ask(column, node_partition(column.ids, self._partitions))
        return column.ids

    def _ask(self, column: Named, partitions: I64s) -> None:
        strange = self._names.strange(column, partitions)
        if len(strange):
            self.strange.append(strange)


def _texts(column: Sequence[str | None]) -> pa.StringArray | None:
    return None if column.count(None) == len(column) else pa.array(column, pa.string())


def _event_ids(given: pa.StringArray, origin: Callable[[int], str]) -> U64s:
    if not given.null_count:
        return hash_laid(laid_out(given), EVENT)
    return hash_ids([name if name is not None else origin(row) for row, name in enumerate(given.to_pylist())], EVENT)


def _actions(column: pa.DictionaryArray, shape: Shape) -> tuple[U64s, I64s]:
    known, rows = [shape.actions[name] for name in column.dictionary.to_pylist()], column.indices.to_numpy()
    codes = np.array([action.code for action in known], dtype=np.uint64)
    weights = np.array([_weight(action) for action in known], dtype=np.int64)
    return codes[rows], weights[rows]


def _weight(action: Action) -> int:
    return action.weight if action.positive else 0


def _surfaces(column: pa.StringArray) -> U64s:
    if column.null_count == len(column):
        return np.zeros(len(column), dtype=np.uint64)
    encoded = column.dictionary_encode()
    codes = [_SURFACE_CODES.get(name, OTHER_SURFACE) for name in encoded.dictionary.to_pylist()]
    found: U64s = np.array([*codes, 0], dtype=np.uint64)[encoded.indices.fill_null(len(codes)).to_numpy()]
    return found
