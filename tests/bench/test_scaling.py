"""How the cluster grows and moves: the bench itself at toy size, and how it counts."""

import doctest
import json
import os
from pathlib import Path

import pytest

from bench import lag_truth, moving, scaling
from bench.installation import Mark
from bench.services import ServiceUnavailable


def test_every_figure_is_there_and_lag_is_the_truth(tmp_path: Path) -> None:
    """A kill costs a session's time-out and a join the start of a worker, so these are left to the bench."""
    said: list[str] = []
    plan = scaling.Plan(events=3000, workers=(1,), rate=300, moves=("leave",))
    try:
        report = scaling.measure(plan, tmp_path, say=said.append)
    except ServiceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error).splitlines()[0])
    found = json.loads(json.dumps(report))
    assert (found["partitions"], set(found["workers"])) == (12, {"1"})
    one = found["workers"]["1"]
    assert one["events_per_s"] >= one["full_per_s"] > 0 and len(one["cores_each"]) == 1
    assert one["events_partitions_each"] == [12]
    assert min(one["worker_us_per_event"], one["machine_cores"]) > 0
    stalled = found["stalls"]["leave"]
    assert 0 < stalled["moved"] < 24
    assert 0 < stalled["together_s"] <= stalled["stall_s"] <= moving.STEADY_S + stalled["held_s"] + moving.STEADY_S
    for state, readers in (("live", 1), ("idle", 1), ("paused", None), ("dead", None)):
        told = found["lag_truth"][state]
        assert (told["partitions"], told["wrong"], told["difference_max"]) == (24, 0, 0), state
        assert told["true_lag_min"] <= told["lag_records"] <= told["true_lag_max"], state
        assert readers in (None, told["readers"]), state
    assert found["lag_truth"]["idle"]["lag_records"] == 0
    assert found["lag_truth"]["dead"]["lag_records"] > 0 and found["lag_truth"]["dead"]["true_lag_min"] > 0


def test_a_stall_is_the_longest_time_without_an_advance_and_only_of_what_moved() -> None:
    seen = moving.Advances()
    for now, marks in enumerate([(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 3, 2), (2, 4, 2), (3, 5, 2), (3, 6, 9)]):
        epochs = (1, 1, 1) if now < 4 else (2, 1, 2)
        seen.look([Mark(epoch, mark) for epoch, mark in zip(epochs, marks, strict=True)], float(now))
    assert seen.moved() == [0, 2]
    assert [seen.stall_s(n, since=2.5) for n in range(3)] == [3.0, 1.0, 4.0]
    assert seen.together_s([0, 2], since=2.5) == 3.0, "the first of them went on at 5"
    assert moving.longest([], since=0.0) == 0.0


def test_figures_are_medians_and_cpu_is_all_workers() -> None:
    runs = [scaling.Run(1000, s, 2 * s, 0.1, (0.3 * s, 0.1 * s), 0.05, 0.02, 3 * s) for s in (1.0, 2.0, 4.0)]
    found = scaling.figures(runs)
    assert (found["events_per_s"], found["full_per_s"], found["worker_us_per_event"]) == (500, 250, 800.0)
    assert (found["cores_each"], found["share_max"], found["machine_cores"]) == ([0.15, 0.05], 0.75, 1.5)


def test_what_is_said_of_it_is_so() -> None:
    assert all(doctest.testmod(module).failed == 0 and doctest.testmod(module).attempted for module in (moving, lag_truth))
    with pytest.raises(ValueError, match="workers="):
        scaling.Plan(workers=())
