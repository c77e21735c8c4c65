"""A view kept fresh commit by commit shows what a view loaded anew shows."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from freshet.view import View
from serving.lookup import Lookup
from serving.sessions import PAUSE_MS
from storage.catalogue import Content
from storage.ids import COLLECTION, ITEM, hash_id
from storage.log import Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state_memory import MemoryState
from stream.events import Event
from stream.ingest import EVENTS, Ingest
from stream.shape import DAY_MS, Shape
from stream.wire import encode_event
from tests.stream.event_logs import APPEND_MS, SMALL, THREE, fill, make_messages

NOW_MS = 1_700_000_000_000


def told(view: View, users: list[str]) -> dict[str, object]:
    """Counts of every item by name, and what each user is recommended."""
    catalogue, lookup = view.catalogue, view.lookup(lambda: None)
    heat = view.popularity.snapshot(len(catalogue))
    counts = {
        catalogue.name(row): (heat.events[row], heat.positives[row], round(float(heat.heat[row]), 9)) for row in range(len(catalogue))
    }
    return {"counts": counts} | {user: sorted(recommended(lookup, user)) for user in users}


def recommended(lookup: Lookup, user: str) -> list[tuple[str, float]]:
    return [(item.item_id, round(float(item.score), 6)) for item in lookup.recommend(user, k=1000, now_ms=NOW_MS).items]


@pytest.mark.parametrize("shape", [SMALL, THREE], ids=["one partition", "three partitions"])
def test_taking_each_commit_is_loading_everything(shape: Shape, tmp_path: Path) -> None:
    shape = replace(shape, count_half_life_ms=90 * DAY_MS)  # with days, the stream's years end in what a sum over partitions cannot tell
    state, users = MemoryState(), [f"user {n}" for n in range(6)]
    with LmdbLog(tmp_path / "log", partitions=shape.partitions, log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(4), shape, count=120))
        fresh = View(state, shape, Names(state))
        ingest = Ingest(state, log, shape, names=Names(state))
        ingest.claim()
        while records := log.read_ordered(EVENTS, fresh.progress.as_of.number + 1, records_max=17):
            fresh.take(ingest.apply(records, now_ms=APPEND_MS), now_ms=NOW_MS)
    loaded = View(state, shape, Names(state))
    loaded.load()
    assert told(fresh, users) == told(loaded, users)
    assert fresh.progress.as_of.number == 119


def test_a_view_takes_content_of_items_and_leaves_other_kinds(tmp_path: Path) -> None:
    state = MemoryState()
    view = View(state, SMALL, Names(state))
    view.put({hash_id("a", ITEM): Content(name="a", title="fox"), hash_id("a", COLLECTION): Content(kind="collection", name="a")})
    assert (len(view.catalogue), view.catalogue.titles([0])) == (1, ["fox"])
    view.put({hash_id("a", ITEM): Content(name="a", deleted=True)})
    assert recommended(view.lookup(lambda: None), "anybody") == []


def test_an_empty_view_answers_nobody_with_nothing() -> None:
    state = MemoryState()
    view = View(state, SMALL, Names(state))
    view.load()
    answer = view.lookup(lambda: None).recommend("anybody", now_ms=NOW_MS)
    assert (answer.items, answer.model, answer.as_of.number) == ([], None, -1)


def test_an_event_is_seen_by_the_next_look_up(tmp_path: Path) -> None:
    state = MemoryState()
    view = View(state, SMALL, Names(state))
    lookup = view.lookup(lambda: None)
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        ingest = Ingest(state, log, SMALL, names=Names(state))
        ingest.claim()
        for n, (user, item) in enumerate([("u", "a"), ("v", "a"), ("v", "b")]):
            event = Event(user_id=user, item_id=item, action="view", ts_ms=NOW_MS + n)
            log.append(EVENTS, [Entry(0, encode_event(event))], now_ms=NOW_MS)
            view.take(ingest.apply(log.read(EVENTS, 0, n), now_ms=NOW_MS), now_ms=NOW_MS)
    assert [item for item, _ in recommended(lookup, "u")] == ["b"], "what came after hers, and not what she had"
    assert recommended(lookup, "v") == []
    assert {item for item, _ in recommended(lookup, "w")} == {"a", "b"}


def test_sessions_taken_in_order_are_those_loaded_from_the_histories(tmp_path: Path) -> None:
    """In order, at times of their own, and within what a history holds: then a start changes nothing."""
    shape, chance, state = Shape(), random.Random(8), MemoryState()
    fresh = View(state, shape, Names(state))
    ts_ms, events = NOW_MS, []
    for n in range(400):
        ts_ms += chance.choice([1000, 60_000, PAUSE_MS])
        action = chance.choice(["view", "like", "hide"])
        user, item = f"u{chance.randrange(12)}", f"i{chance.randrange(30)}"
        events.append(Event(event_id=f"e{n}", user_id=user, item_id=item, action=action, ts_ms=ts_ms))
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        ingest = Ingest(state, log, shape, names=Names(state))
        ingest.claim()
        log.append(EVENTS, [Entry(0, encode_event(event)) for event in [*events, events[7]]], now_ms=ts_ms)
        while records := log.read_ordered(EVENTS, fresh.progress.as_of.number + 1, records_max=17):
            fresh.take(ingest.apply(records, now_ms=ts_ms), now_ms=ts_ms)
    loaded = View(state, shape, Names(state))
    loaded.load()
    deaf = View(state, shape, Names(state), keeps_sessions=False)
    deaf.load()
    assert len(loaded.sessions) == len(fresh.sessions) > 50
    assert len(deaf.sessions) == 0
    for n in range(12):
        was, now, none = (voted(view, f"u{n}", ts_ms) for view in (fresh, loaded, deaf))
        assert was == pytest.approx(now)
        assert any(was.values()) and not any(none.values())


def voted(view: View, user: str, now_ms: int) -> dict[str, float]:
    votes = view.lookup(lambda: None).context(user, now_ms=now_ms).votes
    return {view.catalogue.name(row): float(votes[row]) for row in range(len(view.catalogue))}


def test_the_codes_of_likings_are_those_of_the_shape() -> None:
    codes = Shape().positive
    assert codes.shape == (256,)
    assert set(np.flatnonzero(codes).tolist()) == {action.code for action in Shape().actions.values() if action.positive}
