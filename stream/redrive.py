"""Redrive: a dead letter repaired and sent again, to the partition its user belongs to.

What it repairs is the record, by fields set or taken away. The event keeps its id; one that had none gets its origin's
name, as it would have had where it first landed. So redriving twice has one effect, as every duplicate has.

    entry = repaired(letter, {"ts_ms": 1_700_000_000_000}, shape, now_ms=now_ms)
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from storage.log import JSON, Entry, Record
from stream.deadletters import DeadLetter
from stream.entities import ENTITIES, read_entity
from stream.routing import partition_of
from stream.shape import Shape
from stream.validation import refusal
from stream.wire import decode_event

_PACK: Final = "unreadable pack"


def repaired(letter: DeadLetter, edits: Mapping[str, Any], shape: Shape, *, now_ms: int) -> Entry:
    """The record to append to the letter's topic; `edits` are set in it, None takes a field away.

    now_ms: when it is appended, with which its event time is compared. Raises ValueError for what would be refused again.
    """
    if letter.kind == _PACK:
        raise ValueError("a pack that cannot be read: nobody knows its events, have its producer send them again")
    fields = _edited(letter.raw, edits)
    return _entity(letter, fields, shape) if letter.topic == ENTITIES else _event(letter, fields, shape, now_ms)


def _event(letter: DeadLetter, fields: dict[str, Any], shape: Shape, now_ms: int) -> Entry:
    if isinstance(fields.get("context"), str):  # of a pack it is a column of text
        fields["context"] = _object(fields["context"].encode())
    fields.setdefault("event_id", letter.name)
    body = msgspec.json.encode(fields)
    event = decode_event(body)
    if reason := refusal(event, now_ms, shape):
        raise ValueError(f"it would be refused again: {reason}")
    return Entry(partition_of(event.user_id, shape.partitions), body, key=event.user_id.encode())


def _entity(letter: DeadLetter, fields: dict[str, Any], shape: Shape) -> Entry:
    if not fields.get("ts_ms"):
        fields["ts_ms"] = letter.append_ms  # else it would count as newer than all that came since
    body = msgspec.json.encode(fields)
    content = read_entity(Record(0, 0, 0, letter.append_ms, JSON, body))
    key = f"{content.kind}:{content.name}"
    return Entry(partition_of(key, shape.partitions), body, key=key.encode())


def _edited(raw: bytes, edits: Mapping[str, Any]) -> dict[str, Any]:
    try:
        fields = _object(raw)
    except ValueError:
        if not edits:
            raise
        fields = {}  # nothing of it can be read: the edits are the record
    return {name: value for name, value in {**fields, **edits}.items() if value is not None}


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its bytes are no JSON ({error}): give the whole record (--edit FILE)") from error
    if not isinstance(found, dict):
        raise ValueError(f"its bytes are JSON, but no object: give the whole record (--edit FILE), not {text[:40]!r}")
    return found
