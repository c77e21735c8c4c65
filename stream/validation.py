"""When an event is refused, and why: the same rules for JSON and packs, over whole columns.

Nothing here reads a clock: the time to compare with is the record's own append time, so a replay decides alike.

    reasons = refusals(batch, append_ms, shape)      # {row: reason}
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Bools, I64s
from storage.histories import TS_MS_MAX
from stream.events import CONTEXT_BYTES_MAX, FUTURE_MS_MAX, ID_BYTES_MAX, SCHEMA, SHOWN_MAX, TEXT_BYTES_MAX
from stream.shape import Shape

FEW: Final = 16
"""Up to so many rows plain Python is faster than starting a column's kernel: one event at a time is the common case of a quiet site."""
_IDS: Final = ("event_id", "user_id", "action", "item_id", "surface", "session_id", "collection_id", "source_item_id")


def refusals(events: pa.RecordBatch, append_ms: I64s, shape: Shape) -> dict[int, str]:
    """The first reason against each row that has one. append_ms (N,): the log's time of each row's record."""
    reasons: dict[int, str] = {}
    for wrong, reason in _checks(events, append_ms, shape):
        if not wrong.any():
            continue
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, reason)
    return reasons


def _checks(events: pa.RecordBatch, append_ms: I64s, shape: Shape) -> Iterator[tuple[Bools, str]]:
    for name in ("user_id", "action", "ts_ms"):
        if events.column(name).null_count:
            yield _bools(events.column(name).is_null()), f"{name} is missing"
    for name in _IDS:
        column = events.column(name)
        if column.null_count < len(column):
            length = _lengths(column)
            yield length == 0, f"{name} is empty"
            yield length > ID_BYTES_MAX, f"{name} is longer than {ID_BYTES_MAX} bytes"
    action = events.column("action")
    names = action.to_pylist() if len(action) <= FEW else None
    known = (
        _bools(pc.is_in(action, _value_set(tuple(shape.actions)))) if names is None else np.array([n in shape.actions for n in names], bool)
    )
    yield ~known, f"unknown action: it is none of {', '.join(shape.actions)}"
    search = _bools(pc.equal(action, "search")) if names is None else np.array([n == "search" for n in names], bool)
    for name, needed, reason in (("item_id", ~search, "item_id is missing"), ("query", search, "query is missing: a search needs one")):
        if events.column(name).null_count and needed.any():
            yield needed & _bools(events.column(name).is_null()), reason
    ts_ms = _ints(events.column("ts_ms"), 0)
    yield ts_ms < 0, "ts_ms is negative: times are UTC milliseconds since 1970"
    yield ts_ms > np.minimum(append_ms + FUTURE_MS_MAX, TS_MS_MAX), "ts_ms is more than a day after the record was appended"
    yield from _optional(events)


@lru_cache(maxsize=16)
def _value_set(names: tuple[str, ...]) -> pa.Array:
    return pa.array(names, pa.string())


def _optional(events: pa.RecordBatch) -> Iterator[tuple[Bools, str]]:
    for name, bound in (("query", TEXT_BYTES_MAX), ("context", CONTEXT_BYTES_MAX)):
        column = events.column(name)
        if column.null_count < len(column):
            yield _lengths(column) > bound, f"{name} is longer than {bound} bytes"
    shown = events.column("shown")
    if shown.null_count < len(shown):
        yield _ints(pc.list_value_length(shown), 0) > SHOWN_MAX, f"shown has more than {SHOWN_MAX} items"
    value = events.column("value")
    if value.null_count < len(value):
        yield ~np.isfinite(pc.fill_null(value, 0.0).to_numpy(zero_copy_only=False)), "value is not a finite number"
    schema = _ints(events.column("schema"), SCHEMA)
    yield (schema < 1) | (schema > SCHEMA), f"schema is not {SCHEMA}: this freshet is too old for the event"


def _bools(column: pa.Array) -> Bools:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _lengths(column: pa.StringArray) -> I64s:
    """Bytes of UTF-8; 1 where there is no string."""
    if len(column) <= FEW:
        return np.array([1 if text is None else len(text.encode()) for text in column.to_pylist()], dtype=np.int64)
    return _ints(pc.binary_length(column), 1)


def _ints(column: pa.Array, missing: int) -> I64s:
    filled = pc.fill_null(column, missing) if column.null_count else column
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)
