"""How long an event takes to be seen: the bench itself at toy size, and what it counts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench import freshness
from bench.loading import Order, events, spread
from bench.refreshing import Tracker
from bench.services import ServiceUnavailable
from stream.kafka import Kafka
from stream.neighbour_lists import dirty_mark
from stream.refresh import Refreshed


def test_every_figure_is_there_and_every_answer_held_its_event(tmp_path: Path) -> None:
    plan = freshness.Plan(rates=(200,), seconds=2.0, warm_s=1.0, users=500, items=300, refresh_rate=200, refresh_items=100)
    said: list[str] = []
    try:
        report = freshness.measure(plan, tmp_path, say=said.append)
    except ServiceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error).splitlines()[0])
    found = json.loads(json.dumps(report))
    (at,) = found["rates"]
    assert (found["partitions"], found["workers"], at["rate"], len(said)) == (12, 2, 200, 2)
    assert at["events_per_s"] > 50
    assert set(at["cores"]) == {"worker-0", "worker-1", "api", "load", "bench", "kafka", "redis", "others"}
    assert at["acked_ms"]["count"] == 50 and at["acked_ms"]["p50"] <= at["histories_ms"]["p50"]
    for name, probes in (("histories_ms", 50), ("neighbours_ms", 10)):
        seen = at[name]
        assert (seen["count"], seen["never"], seen["untrue"]) == (probes, 0, 0), name
        assert 0 < seen["p50"] <= seen["p99"] <= seen["max"], name
    refresh = found["refresh"]
    assert refresh["items"] > 20
    assert refresh["delay_ms"]["count"] > 0 and 0 < refresh["delay_ms"]["p50"] <= refresh["delay_ms"]["p99"]
    assert refresh["dirty"] and refresh["dirty_max"] >= refresh["dirty_last"] >= 0, "at least once: a busy machine looks seldom"


def test_an_item_is_dirty_from_the_first_mark_that_was_seen_to_the_upsert() -> None:
    tracker, ids = Tracker(), np.array([7], dtype=np.uint64)
    tracker.look({7: dirty_mark(1, append_ms=1000), 8: dirty_mark(1, append_ms=1000)}, 0.0)
    tracker.look({7: dirty_mark(2, append_ms=1400), 8: dirty_mark(1, append_ms=1000)}, 0.1)
    for node in (7, 8):
        tracker.shown(node, dirty_mark(2, append_ms=1400))
    tracker.upserted(ids, 1700)
    tracker.stepped()
    assert tracker.delays_ms == [700], "8 was looked at and left as it was"
    tracker.look({7: dirty_mark(3, append_ms=1650)}, 0.2)
    tracker.upserted(ids, 2000)
    assert tracker.delays_ms == [700, 350] and [count for _, count in tracker.dirty] == [2, 2, 1]
    tracker.told(Refreshed(5, 2, (100, 200)))
    assert (tracker.looked_at, tracker.embedded, tracker.newest_ms) == (5, 2, [100, 200])


def test_a_load_is_the_same_for_the_same_seed_and_is_refused_when_it_is_none() -> None:
    order = Order(Kafka("127.0.0.1:1"), rate=10, users=50, items=20)
    first, second = events(order), events(order)
    drawn = [next(first) for _ in range(100)]
    assert [(e.user_id, e.item_id) for e in drawn] == [(e.user_id, e.item_id) for e in (next(second) for _ in range(100))]
    assert all(int((e.item_id or "")[1:]) < 20 and e.event_id is None for e in drawn)
    with pytest.raises(ValueError, match="rate=0"):
        Order(Kafka("127.0.0.1:1"), rate=0)
    with pytest.raises(ValueError, match="rates="):
        freshness.Plan(rates=())


def test_times_are_told_by_count_median_and_tail() -> None:
    assert spread([]) == {"count": 0}
    assert spread([1.0, 2.0, 3.0]) == {"count": 3, "p50": 2.0, "p99": 3.0, "max": 3.0}
