"""What so many users take: measured on a small partition, computed by rules that are checked here."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench import capacity
from bench.footprint import TABLES, Filling, Footprint, Rows, footprint
from bench.planning import BUSY_MAX, Costs, Target, count_rows, plan
from bench.services import RedisServer, ServiceUnavailable

COSTS = Costs(worker_us=30.0, redis_us=12.0, kafka_us=6.0, worker_json_us=60.0)
HELD = Footprint({table: Rows(100, 10_000) for table in TABLES}, {"histories": 400.0, "seen": 500.0, "neighbours": 300.0}, list_us=0.1)


def scaling_line(**more: object) -> str:
    one = {"worker_us_per_event": 30.0, "redis_us_per_event": 12.0, "kafka_us_per_event": 6.0}
    return json.dumps({"bench": "scaling", "workers": {"4": dict.fromkeys(one, 99.0), "1": one}, **more})


def test_a_filled_partition_takes_what_its_rows_take(tmp_path: Path) -> None:
    filling = Filling(users=60, items=40, events_per_user=20)
    try:
        with RedisServer(tmp_path) as redis:
            held = footprint(filling, redis)
    except ServiceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error).splitlines()[0])
    assert set(held.rows) == set(TABLES)
    assert held.rows["histories"].count == held.rows["seen"].count == 60
    assert 30 <= held.rows["counts"].count == held.rows["neighbours"].count == held.rows["nodes"].count <= 40
    assert held.rows["names"].count == 60 + held.rows["counts"].count
    assert 8 + 16 * 20 + 8 * 20 < held.rows["histories"].each < 3 * (8 + 16 * 20 + 8 * 20), "twenty entries, twenty ids of the ring"
    assert held.bounds["histories"] > 3080 and held.bounds["seen"] > 32_768 and held.bounds["neighbours"] > 4104
    assert 0 < held.list_us < 50
    said: list[str] = []
    found = capacity.report(Target(), filling, held, COSTS, say=said.append)
    assert found["bytes"]["user"] == round(held.user) and json.loads(json.dumps(found)) == found
    assert said[1] == "|---|---|---|" and all(line.count("|") == 4 for line in said)


def test_twice_the_events_take_twice_the_workers_and_memory_goes_by_users_and_items() -> None:
    one = plan(Target(), Filling(), HELD, COSTS)
    assert one.workers == 5 == pytest.approx(100_000 * 30e-6 / BUSY_MAX) and one.workers_json == 10
    assert one.redis_nodes_for_cpu == 2 and one.kafka_cores == 1
    assert one.partitions >= 4 * one.workers and one.partitions & (one.partitions - 1) == 0
    rows = count_rows(Target(), Filling(), one.partitions)
    assert one.redis_gib == pytest.approx((1e7 * 300 + 1e7 * 400 + rows * 100) / 2**30, abs=0.1)
    full = (1e7 * (400 + 500 + 100) + 1e7 * (300 + 300 + 100 * one.partitions)) / 2**30
    assert one.redis_gib_max == pytest.approx(full, abs=0.1) and one.redis_gib_max > one.redis_gib
    assert one.qdrant_gib == pytest.approx(2 * 1.5 * 1e7 * 256 / 2**30, abs=0.1)
    twice = plan(Target(events_per_s=200_000), Filling(), HELD, replace(COSTS, worker_json_us=None))
    assert (twice.workers, twice.workers_json) == (10, None)


def test_a_hash_never_grows_so_large_that_its_listing_stops_redis_for_long() -> None:
    slow = replace(HELD, list_us=10.0)
    found = plan(Target(events_per_s=1), Filling(), slow, COSTS)
    assert 10_000_000 / found.partitions / 16 * 10.0 <= 10_000


def test_rows_of_counts_are_at_most_one_a_partition_and_an_event() -> None:
    target, filling = Target(users=1000, items=500), Filling(events_per_user=10)
    found = [count_rows(target, filling, partitions) for partitions in (1, 2, 64, 4096)]
    assert found == sorted(found) and found[0] <= 500 and found[-1] <= 10_000


def test_costs_are_those_of_the_last_lines(tmp_path: Path) -> None:
    first, engine = tmp_path / "scaling.json", tmp_path / "engine.json"
    first.write_text(f"noise\n{scaling_line(workers={})}\n{scaling_line()}\n")
    engine.write_text(
        json.dumps({"bench": "engine", "form": "packs", "full": {}})
        + "\n"
        + json.dumps({"bench": "engine", "form": "cluster", "full_json": {"us_per_event": 60.0}})
        + "\n"
    )
    assert capacity.costs_of([first, engine]) == COSTS
    assert capacity.costs_of([first]) == replace(COSTS, worker_json_us=None)
    assert capacity.costs_of([]) is None
    with pytest.raises(ValueError, match=r"a line of bench\.scaling is needed"):
        capacity.costs_of([engine])
    with pytest.raises(ValueError, match="at least 1"):
        Target(users=0)
