"""When an event is refused, and why: the same rules for JSON, event by event, and for packs, over whole columns.

Nothing here reads a clock: the time to compare with is the record's own append time, so a replay decides alike.

    reasons = refusals(events, append_ms, shape)      # {row: reason}
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, I64s
from storage.histories import TS_MS_MAX
from stream.events import CONTEXT_BYTES_MAX, FUTURE_MS_MAX, ID_BYTES_MAX, SCHEMA, SHOWN_MAX, TEXT_BYTES_MAX, Event
from stream.shape import Shape
from stream.wire import Events

ID_CHARACTERS_SAFE: Final = ID_BYTES_MAX // 4
"""So many characters never take more bytes than an id may have."""
NO_ITEM: Final = "item_id is missing"
NO_QUERY: Final = "query is missing: a search needs one"
NEGATIVE: Final = "ts_ms is negative: times are UTC milliseconds since 1970"
FUTURE: Final = "ts_ms is more than a day after the record was appended"
MANY_SHOWN: Final = f"shown has more than {SHOWN_MAX} items"
NOT_FINITE: Final = "value is not a finite number"
OTHER_SCHEMA: Final = f"schema is not {SCHEMA}: this freshet is too old for the event"
_IDS: Final = ("event_id", "user_id", "action", "item_id", "surface", "session_id", "collection_id", "source_item_id")
_TEXTS: Final = attrgetter(*_IDS)


def refusals(events: Events, append_ms: I64s, shape: Shape) -> dict[int, str]:
    """The first reason against each row that has one. append_ms (N,): the log's time of each row's record."""
    if isinstance(events, list):
        found = ((row, refusal(event, ms, shape)) for row, (event, ms) in enumerate(zip(events, append_ms.tolist(), strict=True)))
        return {row: reason for row, reason in found if reason is not None}
    reasons: dict[int, str] = {}
    for wrong, reason in _checks(events, append_ms, shape):
        if not wrong.any():
            continue
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, reason)
    return reasons


def refusal(event: Event, append_ms: int, shape: Shape) -> str | None:
    """The first reason against one event that was read from JSON: what is required is there, and of its type."""
    for text in _TEXTS(event):
        if text is not None and not 0 < len(text) <= ID_CHARACTERS_SAFE and (wrong := _id_refusal(event)):
            return wrong
    if event.action not in shape.actions:
        return _unknown_action(shape)
    if event.item_id is None and event.action != "search":
        return NO_ITEM
    if event.query is None and event.action == "search":
        return NO_QUERY
    if event.ts_ms < 0:
        return NEGATIVE
    if event.ts_ms > min(append_ms + FUTURE_MS_MAX, TS_MS_MAX):
        return FUTURE
    return _optional_refusal(event)


def _id_refusal(event: Event) -> str | None:
    for name, text in zip(_IDS, _TEXTS(event), strict=True):
        if text == "":
            return _empty(name)
        if text is not None and len(text.encode()) > ID_BYTES_MAX:
            return _long(name, ID_BYTES_MAX)
    return None


def _optional_refusal(event: Event) -> str | None:
    if event.query is not None and len(event.query.encode()) > TEXT_BYTES_MAX:
        return _long("query", TEXT_BYTES_MAX)
    if event.context and len(msgspec.json.encode(event.context)) > CONTEXT_BYTES_MAX:
        return _long("context", CONTEXT_BYTES_MAX)
    if len(event.shown) > SHOWN_MAX:
        return MANY_SHOWN
    if event.value is not None and not math.isfinite(event.value):
        return NOT_FINITE
    return None if 1 <= event.schema <= SCHEMA else OTHER_SCHEMA


def _checks(events: pa.RecordBatch, append_ms: I64s, shape: Shape) -> Iterator[tuple[Bools, str]]:
    for name in ("user_id", "action", "ts_ms"):
        if events.column(name).null_count:
            yield _bools(events.column(name).is_null()), f"{name} is missing"
    for name in _IDS:
        column = events.column(name)
        if column.null_count < len(column):
            length = _lengths(column)
            yield length == 0, _empty(name)
            yield length > ID_BYTES_MAX, _long(name, ID_BYTES_MAX)
    action = events.column("action")
    yield ~_bools(pc.is_in(action, _value_set(tuple(shape.actions)))), _unknown_action(shape)
    search = _bools(pc.equal(action, "search"))
    for name, needed, reason in (("item_id", ~search, NO_ITEM), ("query", search, NO_QUERY)):
        if events.column(name).null_count and needed.any():
            yield needed & _bools(events.column(name).is_null()), reason
    ts_ms = _ints(events.column("ts_ms"), 0)
    yield ts_ms < 0, NEGATIVE
    yield ts_ms > np.minimum(append_ms + FUTURE_MS_MAX, TS_MS_MAX), FUTURE
    yield from _optional(events)


@lru_cache(maxsize=16)
def _value_set(names: tuple[str, ...]) -> pa.Array:
    return pa.array(names, pa.string())


def _optional(events: pa.RecordBatch) -> Iterator[tuple[Bools, str]]:
    for name, bound in (("query", TEXT_BYTES_MAX), ("context", CONTEXT_BYTES_MAX)):
        column = events.column(name)
        if column.null_count < len(column):
            yield _lengths(column) > bound, _long(name, bound)
    shown = events.column("shown")
    if shown.null_count < len(shown):
        yield _ints(pc.list_value_length(shown), 0) > SHOWN_MAX, MANY_SHOWN
    value = events.column("value")
    if value.null_count < len(value):
        yield ~np.isfinite(pc.fill_null(value, 0.0).to_numpy(zero_copy_only=False)), NOT_FINITE
    schema = _ints(events.column("schema"), SCHEMA)
    yield (schema < 1) | (schema > SCHEMA), OTHER_SCHEMA


def _bools(column: pa.Array) -> Bools:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _lengths(column: pa.StringArray) -> I64s:
    """Bytes of UTF-8; 1 where there is no string."""
    return _ints(pc.binary_length(column), 1)


def _ints(column: pa.Array, missing: int) -> I64s:
    filled = pc.fill_null(column, missing) if column.null_count else column
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)


def _empty(name: str) -> str:
    return f"{name} is empty"


def _long(name: str, bound: int) -> str:
    return f"{name} is longer than {bound} bytes"


def _unknown_action(shape: Shape) -> str:
    return f"unknown action: it is none of {', '.join(shape.actions)}"
