"""When an event is refused, and that JSON and packs are refused alike, at any moment."""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from storage.columns import EVENT_SCHEMA
from storage.histories import TS_MS_MAX
from stream.events import CONTEXT_BYTES_MAX, FUTURE_MS_MAX, ID_BYTES_MAX, SHOWN_MAX, TEXT_BYTES_MAX, Event
from stream.shape import ACTIONS, Action, Shape
from stream.validation import refusals
from stream.wire import encode_event
from tests.stream.event_logs import columns

NOW_MS = 1_700_000_000_000
EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=NOW_MS)
SEARCH = Event(user_id="u", action="search", query="red shoes", ts_ms=NOW_MS)
LONG = "ü" * (ID_BYTES_MAX // 2)


def reasons(*events: Event, append_ms: int = NOW_MS, shape: Shape | None = None) -> dict[int, str]:
    """What is said of them as columns, having checked that the same is said of them one by one."""
    stamps = np.full(len(events), append_ms, dtype=np.int64)
    found = refusals(columns(events), stamps, shape or Shape())
    assert refusals(list(events), stamps, shape or Shape()) == found
    return found


def changed(event: Event = EVENT, **fields: object) -> Event:
    return msgspec.structs.replace(event, **fields)


def having(name: str, text: str) -> Event:
    return msgspec.structs.replace(EVENT, **{name: text})


ID_FIELDS = ("user_id", "item_id", "event_id", "surface", "session_id", "collection_id", "source_item_id")


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        SEARCH,
        changed(SEARCH, item_id="i"),
        changed(ts_ms=0),
        changed(ts_ms=NOW_MS + FUTURE_MS_MAX),
        *(having(name, LONG) for name in ID_FIELDS),
        changed(shown=["i"] * SHOWN_MAX),
        changed(query="x" * TEXT_BYTES_MAX),
        changed(context={"a": "x" * (CONTEXT_BYTES_MAX - len(b'{"a":""}'))}),
        changed(value=1e308, dwell_ms=-(2**53), surface="fridge door"),
        *(changed(action=name) for name in ACTIONS if name != "search"),
    ],
)
def test_what_is_within_the_bounds_is_accepted(event: Event) -> None:
    assert reasons(event) == {}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (changed(user_id=""), "user_id is empty"),
        (changed(item_id=None), "item_id is missing"),
        (changed(SEARCH, query=None), "query is missing: a search needs one"),
        (changed(SEARCH, query=None, item_id="i"), "query is missing: a search needs one"),
        (changed(action="levitate"), "unknown action: it is none of view, click,"),
        (changed(action=""), "action is empty"),
        (changed(ts_ms=-1), "ts_ms is negative"),
        (changed(ts_ms=NOW_MS + FUTURE_MS_MAX + 1), "ts_ms is more than a day after the record was appended"),
        (changed(ts_ms=2**53), "ts_ms is more than a day after the record was appended"),
        *((having(name, LONG + "x"), f"{name} is longer than {ID_BYTES_MAX} bytes") for name in ID_FIELDS),
        *((having(name, ""), f"{name} is empty") for name in ID_FIELDS),
        (changed(shown=["i"] * (SHOWN_MAX + 1)), f"shown has more than {SHOWN_MAX} items"),
        (changed(query="x" * (TEXT_BYTES_MAX + 1)), f"query is longer than {TEXT_BYTES_MAX} bytes"),
        (changed(context={"a": "x" * CONTEXT_BYTES_MAX}), f"context is longer than {CONTEXT_BYTES_MAX} bytes"),
        (changed(value=float("nan")), "value is not a finite number"),
        (changed(value=float("-inf")), "value is not a finite number"),
        (changed(schema=0), "schema is not 1"),
        (changed(schema=2), "schema is not 1: this freshet is too old for the event"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_by_name(event: Event, reason: str) -> None:
    found = reasons(EVENT, event, SEARCH)
    assert list(found) == [1] and found[1].startswith(reason)


def test_a_pack_may_lack_what_json_cannot() -> None:
    row = {"user_id": "u", "action": "view", "item_id": "i", "ts_ms": NOW_MS}
    rows = [row, *({**row, name: None} for name in ("user_id", "action", "ts_ms"))]
    batch = pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)
    found = refusals(batch, np.full(4, NOW_MS, dtype=np.int64), Shape())
    assert found == {1: "user_id is missing", 2: "action is missing", 3: "ts_ms is missing"}


def test_only_the_first_reason_counts() -> None:
    assert reasons(changed(user_id="", action="levitate", ts_ms=-1)) == {0: "user_id is empty"}


def test_the_future_begins_at_each_records_own_append_time() -> None:
    late = NOW_MS + FUTURE_MS_MAX + 1
    batch = columns([changed(ts_ms=late), changed(ts_ms=late)])
    assert list(refusals(batch, np.array([NOW_MS, NOW_MS + 1], dtype=np.int64), Shape())) == [0]


def test_no_time_is_beyond_what_a_history_can_hold() -> None:
    far = 1 << 50
    assert reasons(changed(ts_ms=TS_MS_MAX), append_ms=far) == {}
    assert list(reasons(changed(ts_ms=TS_MS_MAX + 1), append_ms=far)) == [0]


def test_actions_are_those_of_the_shape() -> None:
    shape = Shape(actions={"pin": Action(1, 2, True)})
    assert list(reasons(changed(action="pin"), EVENT, shape=shape)) == [1]


def test_an_event_is_judged_alike_in_any_batch() -> None:
    events = [EVENT, changed(ts_ms=-1), SEARCH, changed(value=float("nan")), changed(schema=9), changed(shown=["i"] * 99)]
    alone = {n: reason for n, event in enumerate(events) for reason in reasons(event).values()}
    assert reasons(*events) == alone
    assert reasons() == {} and encode_event(EVENT)


@pytest.mark.parametrize(
    "fields",
    [
        {"partitions": 0}, {"history_max": 257}, {"seen_max": 0}, {"neighbours_max": 1}, {"edge_window": 17}, {"edge_half_life_ms": 999},
        {"actions": {"a": Action(1, 1, True), "b": Action(1, 1, True)}}, {"actions": {"a": Action(0, 1, True)}},
        {"actions": {"a": Action(32, 1, True)}}, {"actions": {"a": Action(1, 1001, True)}},
    ],
)  # fmt: skip
def test_a_shape_beyond_its_bounds_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"outside|distinct|weight"):
        Shape(**fields)  # type: ignore[arg-type]  # any field
