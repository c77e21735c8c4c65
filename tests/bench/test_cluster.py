"""The stopwatch of the cluster form, over a broker and a Redis of its own."""

import json
import os

import numpy as np
import pytest

from bench import cluster, engine, synthetic
from bench.peers.peer import PeerResult
from bench.services import ServiceUnavailable
from storage.histories import load_histories, store_histories
from storage.ragged import cut, words
from storage.state import HISTORIES, TALLIES, Write
from stream.wire import decode_pack
from tests.services import redis_state


def test_the_last_line_has_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    """A run raises by itself when other than all events were applied, so figures there are figures of all of them."""
    try:
        engine.main(["--cluster", "--events", "2000", "--rounds", "1"])
    except ServiceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error).splitlines()[0])
    said = capsys.readouterr()
    report = json.loads(said.out.splitlines()[-1])
    assert (report["bench"], report["form"], report["events"], report["partitions"]) == ("engine", "cluster", 2000, 12)
    for mode in ("histories_json", "histories_packs", "full_json", "full_packs"):
        assert len(report[mode]["runs"]) == 1
        assert report[mode]["events_per_s"] > 0
        assert report[mode]["us_per_event"] > 0
        assert f"round 1: {mode}" in said.err
    assert "ratio" not in report, "nobody to compare with"
    assert {"commit", "versions", "cores", "peak_rss_mb"} <= set(report)


def test_ratios_are_medians_of_neighbouring_runs() -> None:
    """A machine that slows down slows both of a pair."""
    ours = {mode: [cluster.Run(1000, seconds, seconds / 2) for seconds in (1.0, 2.0, 8.0)] for mode in cluster.MODES}
    peers = {mode: [PeerResult(1000, 2 * s, 3 * s, 2 * s, 3 * s, {"quixstreams": "1"}) for s in (1.0, 2.0, 4.0)] for mode in cluster.MODES}
    report = cluster.report_of(cluster.Plan(events=1000, rounds=3, peer=True), ours, peers)
    assert report["ratio"] == dict.fromkeys(cluster.MODES, 2.0)
    assert report["cpu_ratio"] == dict.fromkeys(cluster.MODES, 6.0)
    assert report["quix"] == {
        "events_per_s": 250.0,
        "us_per_event": 6000.0,
        "runs": [{"events_per_s": round(500 / s), "us_per_event": 3000.0 * s} for s in (1, 2, 4)] * 4,
        "versions": {"quixstreams": "1"},
    }


@pytest.mark.parametrize("form", cluster.FORMS)
def test_both_forms_hold_the_same_events(form: str) -> None:
    users, items = synthetic.draw(3000, seed=0)
    entries = [entry for some in cluster._messages(form, users, items) for entry in some]
    if form == "json":
        assert all(entry.key == json.loads(entry.value)["user_id"].encode() for entry in entries)
        found = [(entry.partition, json.loads(entry.value)) for entry in entries]
    else:
        found = [(entry.partition, row) for entry in entries for row in decode_pack(entry.value).to_pylist()]
    assert sorted(int(row["event_id"][1:]) for _, row in found) == list(range(3000))
    homes: dict[str, int] = {}
    for partition, row in found:
        n = int(row["event_id"][1:])
        assert (row["user_id"], row["item_id"]) == (f"u{users[n]}", f"i{items[n]}")
        assert homes.setdefault(row["user_id"], partition) == partition
    assert set(homes.values()) == set(range(cluster.PARTITIONS))


def test_what_was_not_applied_is_noticed() -> None:
    state = redis_state(partitions=cluster.PARTITIONS)
    with pytest.raises(RuntimeError, match="hold 0 entries, 3 were expected"):
        cluster.check(state, None, 3, "full_json-0")
    state.commit([], [_history(entries=3), _tally(b'{"accepted":4,"duplicates":1}')])
    cluster.check(state, 3, 3, "full_json-0")
    with pytest.raises(RuntimeError, match="3 events were applied, 4 were expected"):
        cluster.check(state, 4, 3, "full_json-0")
    state.commit([], [_tally(b'{"accepted":3,"dead_letters":{"misrouted":1}}')])
    with pytest.raises(RuntimeError, match="misrouted"):
        cluster.check(state, 3, 3, "full_json-0")


def test_a_run_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="events=0"):
        cluster.Plan(events=0)


def _history(*, entries: int) -> Write:
    held = load_histories(*words([None]), np.array([entries]), 128)
    held.size[0] = entries
    held.items[:], held.stamps[:] = 1, 1
    return Write(HISTORIES, 5, np.array([7], np.uint64), cut(*store_histories(held)))


def _tally(body: bytes) -> Write:
    return Write(TALLIES, 5, np.array([1], np.uint64), [body])
