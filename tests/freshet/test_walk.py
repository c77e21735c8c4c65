"""A walk through the past asks before it applies: nothing that came later can be seen in an answer."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.learning.walk import Asked, Walk
from serving.linear import NOTHING
from serving.sources import SOURCES
from storage.catalogue import Content
from storage.columns import ARCHIVE_SCHEMA
from storage.ids import ITEM, hash_id
from storage.log import Record
from storage.log_lmdb import LmdbLog
from storage.state_memory import MemoryState
from stream.archiving import archive_rows, from_archive
from stream.events import Event
from stream.ingest import EVENTS
from stream.replay import digests
from stream.shape import DAY_MS, Shape
from stream.wire import decode
from tests.stream.event_logs import APPEND_MS, NO_LIMIT, SMALL, THREE, fill, ingest_all, make_messages, records_of

ITEMS = [f"i{n}" for n in range(8)]
CONTENTS = {hash_id(name, ITEM): Content(name=name, title=f"title of {name}", offset=n) for n, name in enumerate(ITEMS)}


def table_of(records: Sequence[Record]) -> pa.Table:
    return pa.Table.from_batches([archive_rows(decode(records))], ARCHIVE_SCHEMA)


def table(events: Sequence[Event]) -> pa.Table:
    return table_of(list(records_of(events)))


def event(user: str, item: str, ts_ms: int = 1000, action: str = "view", **more: object) -> Event:
    return Event(user_id=user, item_id=item, action=action, ts_ms=ts_ms, **more)  # type: ignore[arg-type]  # a test's own fields


def told(walk: Walk, asked: Asked) -> tuple[object, ...]:
    """All that an answer says, as it is while it is asked."""
    context = asked.context
    return (
        asked.question,
        asked.target,
        asked.rows.tolist(),
        context.seen.tolist(),
        context.recent.tolist(),
        context.history.items.tolist(),
        walk.features(asked, {"none": None}, {"none": NOTHING})["none"].tolist(),
    )


def answers(events: Sequence[Event], *, before: Sequence[Event] = ()) -> list[tuple[object, ...]]:
    walk = Walk(SMALL, CONTENTS)
    if before:
        walk.advance(decode(list(records_of(before))))
    records = list(records_of(events, first=len(before)))
    return [told(walk, asked) for asked in walk.ask_each(table_of(records))]


some_events = st.lists(
    st.builds(
        event,
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from([*ITEMS, "born late"]),
        st.integers(0, 3 * DAY_MS),
        st.sampled_from(["view", "view", "save", "hide"]),
        collection_id=st.sampled_from([None, "c"]),
        source_item_id=st.sampled_from([None, "i1"]),
    ),
    max_size=14,
)


@given(past=some_events, future=some_events, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_no_answer_knows_what_comes_after_it(past: list[Event], future: list[Event], seed: int) -> None:
    alone = answers(past)
    shuffled = random.Random(seed).sample(future, len(future))
    for after in (future, shuffled, [replace_ts(each, 4 * DAY_MS) for each in future]):
        assert answers([*past, *after])[: len(alone)] == alone


def replace_ts(each: Event, by_ms: int) -> Event:
    return event(each.user_id, each.item_id or "", each.ts_ms + by_ms, "purchase")


@given(events=some_events, cut=st.integers(0, 14))
@settings(max_examples=20)
def test_an_answer_is_the_same_whether_the_past_was_walked_or_applied_at_once(events: list[Event], cut: int) -> None:
    """A walk asks with the event's own time and knows all that was applied, in one batch or many."""
    walked = answers(events)
    at_once = answers(events[cut:], before=events[:cut])
    assert at_once == walked[len(walked) - len(at_once) :]


@pytest.mark.parametrize("shape", [SMALL, THREE], ids=["one partition", "three partitions"])
def test_a_walk_comes_to_the_state_that_ingest_comes_to(shape: Shape, tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", partitions=shape.partitions, log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(8), shape, count=60))
        live = MemoryState()
        ingest_all(log, live, shape)
        rows = table_of(log.read_ordered(EVENTS, 0, records_max=NO_LIMIT, bytes_max=NO_LIMIT))
    walk = Walk(shape, {})
    half = rows.num_rows // 2
    walk.advance(from_archive(rows.slice(0, half)))
    assert sum(1 for _ in walk.ask_each(rows.slice(half))) > 0
    assert digests(walk.state, shape.partitions) == digests(live, shape.partitions)


def test_the_first_event_of_a_user_and_a_repeated_item_are_not_asked() -> None:
    walk = Walk(SMALL, CONTENTS)
    events = [event("u", "i1"), event("u", "i2", 2000), event("u", "i1", 3000), event("v", "i3", 4000), event("u", "i4", 5000)]
    asked = [(a.question.user_id, a.question.item_id, a.question.ts_ms) for a in walk.ask_each(table(events))]
    assert asked == [("u", "i2", 2000), ("u", "i4", 5000)]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"action": "hide"},
        {"action": "levitate"},
        {"action": "search", "query": "q", "item_id": None},
        {"ts_ms": APPEND_MS + 2 * DAY_MS},
        {"schema": 2},
        {"item_id": ""},
    ],
)
def test_what_is_no_liking_or_is_refused_is_not_asked(spoilt: dict[str, object]) -> None:
    walk = Walk(SMALL, CONTENTS)
    fields: dict[str, object] = {"user_id": "u", "action": "view", "item_id": "i2", "ts_ms": 2000, **spoilt}
    events = [event("u", "i1"), Event(**fields), event("u", "i3", 3000)]  # type: ignore[arg-type]  # a test's own fields
    assert [a.question.item_id for a in walk.ask_each(table(events))] == ["i3"]


def test_unreadable_messages_and_empty_packs_are_walked_over() -> None:
    records = list(records_of([event("u", "i1"), event("u", "i2", 2000)]))
    bad = replace_record(records[0], number=1, value=b"{")
    rows = table_of([records[0], bad, replace_record(records[1], number=2, value=records[1].value)])
    walk = Walk(SMALL, CONTENTS)
    assert [a.question.item_id for a in walk.ask_each(rows)] == ["i2"]


def replace_record(record: Record, *, number: int, value: bytes) -> Record:
    return record._replace(number=number, offset=number, value=value)


def test_what_was_taken_is_a_candidate_and_what_was_had_or_deleted_is_none() -> None:
    gone = hash_id("i5", ITEM)
    walk = Walk(SMALL, CONTENTS | {gone: Content(name="i5", deleted=True)})
    rows = table([event("u", "i1"), event("u", "i2", 2000), event("u", "i5", 3000), event("u", "never heard of", 4000)])
    found = {a.question.item_id: (a.target, names(walk, a)) for a in walk.ask_each(rows)}
    assert found["i2"][1] == {*ITEMS} - {"i1", "i5"}
    assert found["i5"] == (-1, {*ITEMS} - {"i1", "i2", "i5"})
    assert found["never heard of"][0] == -1, "an item is born with its first event"


def names(walk: Walk, asked: Asked) -> set[str]:
    return {walk.view.catalogue.name(row) for row in asked.rows.tolist()}


def test_the_target_is_the_place_among_the_candidates() -> None:
    walk = Walk(SMALL, CONTENTS)
    for asked in walk.ask_each(table([event("u", "i0"), event("u", "i3", 2000), event("u", "i7", 3000)])):
        assert walk.view.catalogue.name(int(asked.rows[asked.target])) == asked.question.item_id
        features = walk.features(asked, {"none": None}, {"none": NOTHING})["none"]
        assert features.shape == (len(asked.rows), len(SOURCES))
        assert np.isfinite(features).all()


def test_a_walk_knows_sessions_that_were_before() -> None:
    events = [event(user, item, 1000 + n) for n, (user, item) in enumerate([("u", "i0"), ("u", "i1"), ("v", "i0"), ("v", "i1")])]
    walk, column = Walk(SMALL, CONTENTS), SOURCES.index("sessions")
    spans = [np.ptp(walk.features(asked, {"": None}, {"": NOTHING})[""][:, column]) for asked in walk.ask_each(table(events))]
    assert spans[0] == 0.0, "nobody else came before the first"
    assert spans[-1] > 0


@pytest.mark.parametrize(("most", "asked"), [(1, []), (2, [7]), (3, [3, 7]), (8, [1, 2, 3, 4, 5, 6, 7]), (100, [1, 2, 3, 4, 5, 6, 7])])
def test_of_many_likings_some_are_asked_evenly_and_all_are_applied(most: int, asked: list[int]) -> None:
    """A user's first is among them, and is not asked."""
    events = [event("u", item, 1000 * n) for n, item in enumerate(ITEMS)]
    few, every = Walk(SMALL, CONTENTS), Walk(SMALL, CONTENTS)
    assert [one.question.item_id for one in few.ask_each(table(events), most=most)] == [ITEMS[n] for n in asked]
    every.advance(from_archive(table(events)))
    assert digests(few.state, 1) == digests(every.state, 1)


def test_a_walk_over_nothing_asks_nothing() -> None:
    walk = Walk(SMALL, {})
    assert list(walk.ask_each(table([]))) == []
    assert list(walk.ask_each(table([event("u", "i1")]))) == []
    assert len(walk.view.catalogue) == 1


def test_two_walks_share_nothing() -> None:
    first, second = Walk(SMALL, CONTENTS), Walk(replace(SMALL), CONTENTS)
    first.advance(decode(list(records_of([event("u", "i1")]))))
    assert digests(second.state, 1) != digests(first.state, 1)
    assert not second.view.catalogue.deleted.any()
