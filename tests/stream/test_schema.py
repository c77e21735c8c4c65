"""The schemas that other clients are given accept what ingest accepts, and refuse what it refuses."""

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.histories import TS_MS_MAX
from storage.log import JSON, Record
from stream.entities import ATTRIBUTES_MAX, read_entity
from stream.events import (
    COLLECTIONS_MAX,
    CONTEXT_BYTES_MAX,
    ID_BYTES_MAX,
    IMAGE_BYTES_MAX,
    SCHEMA,
    SHOWN_MAX,
    TEXT_BYTES_MAX,
    Entity,
    Event,
)
from stream.shape import ACTIONS, Shape
from stream.validation import refusals
from stream.wire import decode

DOCS = Path(__file__).resolve().parents[2] / "docs"
LATEST_MS = TS_MS_MAX
"""The time of append: late enough that no time is in the future."""
EVENT_SCHEMA: dict[str, Any] = json.loads((DOCS / "event.schema.json").read_text())
ENTITY_SCHEMA: dict[str, Any] = json.loads((DOCS / "entity.schema.json").read_text())
_event = jsonschema_rs.validator_for(EVENT_SCHEMA)
_entity = jsonschema_rs.validator_for(ENTITY_SCHEMA)

EVENT = {"user_id": "u", "action": "view", "item_id": "i", "ts_ms": 1_700_000_000_000}
SEARCH = {"user_id": "u", "action": "search", "query": "red shoes", "ts_ms": 1_700_000_000_000}
ENTITY = {"kind": "item", "id": "i"}
LONG = "x" * ID_BYTES_MAX
ODD = st.sampled_from(
    [None, True, False, 0, 1, 2, -1, 2**53, 2**53 + 1, -(2**53), 1.5, "", "x", "view", "search", [], ["x"], [1], {}, {"a": 1}]
)
IDS = st.sampled_from(["x", LONG, LONG + "x"])
EVENT_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("user_id", "item_id", "event_id", "surface", "session_id", "collection_id", "source_item_id"), IDS),
    "action": st.sampled_from([*ACTIONS, "levitate"]),
    "ts_ms": st.sampled_from([0, TS_MS_MAX, TS_MS_MAX + 1]),
    "shown": st.sampled_from([["i"] * SHOWN_MAX, ["i"] * (SHOWN_MAX + 1), [""]]),
    "query": st.sampled_from(["x" * TEXT_BYTES_MAX, "x" * (TEXT_BYTES_MAX + 1)]),
    "dwell_ms": st.integers(),
    "value": st.floats(allow_nan=False, allow_infinity=False),
    "context": st.dictionaries(st.sampled_from("ab"), ODD, max_size=2),
    "schema": st.sampled_from([SCHEMA, SCHEMA + 1]),
    "extra": st.just("text"),
    "unknown": st.just("kept"),
}
ENTITY_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["item", "collection", "query", "planet"]),
    "id": IDS,
    "title": st.sampled_from(["x" * TEXT_BYTES_MAX, "x" * (TEXT_BYTES_MAX + 1)]),
    "text": st.just(""),
    "image": st.one_of(
        st.binary(max_size=9).map(lambda body: base64.b64encode(body).decode()), st.sampled_from([[0.5, 1], ["x"], "x", "eHg"])
    ),
    "attributes": st.dictionaries(st.sampled_from("ab"), ODD, max_size=2),
    "collections": st.sampled_from([["c"] * COLLECTIONS_MAX, ["c"] * (COLLECTIONS_MAX + 1), [1]]),
    "ts_ms": st.sampled_from([0, 2**53, -1]),
    "deleted": st.booleans(),
    "unknown": st.just("ignored"),
}


def event_accepted(value: object) -> bool:
    """What becomes of it as a JSON message of the log."""
    decoded = decode([Record(0, 0, 0, LATEST_MS, JSON, json.dumps(value).encode())])
    return not decoded.bad and not refusals(decoded.source, np.array([LATEST_MS], dtype=np.int64), Shape())


def entity_accepted(value: object) -> bool:
    try:
        read_entity(Record(0, 0, 0, LATEST_MS, JSON, json.dumps(value).encode()))
    except ValueError:
        return False
    return True


@st.composite
def changed(draw: st.DrawFn, bases: list[dict[str, Any]], fields: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """One that is accepted, with a few fields left out, set to something at their bounds, or to something odd."""
    made = dict(draw(st.sampled_from(bases)))
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)):
        how = draw(st.sampled_from(["typical", "typical", "odd", "left out"]))
        if how == "left out":
            made.pop(name, None)
        else:
            made[name] = draw(fields[name] if how == "typical" else ODD)
    return made


@given(changed([EVENT, SEARCH], EVENT_FIELDS))
@settings(max_examples=400)
def test_the_schema_of_events_says_what_ingest_does(value: dict[str, Any]) -> None:
    assert _event.is_valid(value) == event_accepted(value)


@given(changed([ENTITY], ENTITY_FIELDS))
@settings(max_examples=200)
def test_the_schema_of_entities_says_what_ingest_does(value: dict[str, Any]) -> None:
    assert _entity.is_valid(value) == entity_accepted(value)


@pytest.mark.parametrize("value", [None, 1, "x", [], [EVENT], {}, True])
def test_what_is_no_record_is_neither(value: object) -> None:
    assert not _event.is_valid(value) and not event_accepted(value)
    assert not _entity.is_valid(value) and not entity_accepted(value)


@pytest.mark.parametrize(
    "value",
    [
        {**EVENT, "user_id": "ü" * ID_BYTES_MAX},
        {**SEARCH, "query": "ü" * TEXT_BYTES_MAX},
        {**EVENT, "context": {"a": "x" * CONTEXT_BYTES_MAX}},
        {**EVENT, "ts_ms": 1_700_000_000_000.5 - 0.5},
    ],
    ids=["bytes of an id", "bytes of a query", "bytes of a context", "a whole number written as a fraction"],
)
def test_what_a_schema_cannot_say_is_refused_at_ingest_alone(value: dict[str, Any]) -> None:
    assert _event.is_valid(value)
    assert not event_accepted(value)


def test_title_and_text_share_their_bound_and_an_image_has_one() -> None:
    shared = {**ENTITY, "title": "x" * TEXT_BYTES_MAX, "text": "x"}
    assert _entity.is_valid(shared) and not entity_accepted(shared)
    for size, fits in ((IMAGE_BYTES_MAX, True), (IMAGE_BYTES_MAX + 3, False)):
        image = {**ENTITY, "image": base64.b64encode(bytes(size)).decode()}
        assert (_entity.is_valid(image), entity_accepted(image)) == (fits, fits)
    for count in (ATTRIBUTES_MAX, ATTRIBUTES_MAX + 1):
        many = {**ENTITY, "attributes": {str(n): n for n in range(count)}}
        assert _entity.is_valid(many) == entity_accepted(many) == (count == ATTRIBUTES_MAX)


def test_the_schemas_name_every_field_and_each_bound_of_the_record() -> None:
    assert set(EVENT_SCHEMA["properties"]) == set(Event.__struct_fields__)
    assert set(ENTITY_SCHEMA["properties"]) == set(Entity.__struct_fields__)
    assert EVENT_SCHEMA["properties"]["action"]["enum"] == list(ACTIONS)
    assert jsonschema_rs.meta.is_valid(EVENT_SCHEMA) and jsonschema_rs.meta.is_valid(ENTITY_SCHEMA)
