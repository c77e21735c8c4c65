"""What learning is worth: curves, recovery and look-ups by hand, and one small report from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import learning
from bench.learning import BOTH, CONTROLS, HEADS, NONE, WEIGHTS, WINDOW, back_after, curve, lookups, main
from freshet.demo import loop
from freshet.world.events import WorldConfig


def test_a_curve_is_the_mean_of_the_newest_window() -> None:
    hits, at = np.repeat([0.0, 1.0], WINDOW), np.arange(1, 2 * WINDOW + 1)
    points = curve(hits, at)
    assert points[0] == (WINDOW, 0.0) and points[-1] == (2 * WINDOW, 1.0)
    assert curve(np.empty(0), np.empty(0, dtype=np.int64)) == [] and curve(np.ones(3), np.arange(3)) == [(2, 1.0)]


def test_back_after_a_drift_is_when_a_whole_window_after_it_is_as_good_as_before() -> None:
    before, bad, good = np.ones(2 * WINDOW), np.zeros(WINDOW // 2), np.ones(3 * WINDOW)
    hits = np.concatenate([before, bad, good])
    at = np.arange(1, len(hits) + 1)
    assert back_after(hits, at, 2 * WINDOW) == WINDOW // 2 + round(0.95 * WINDOW)
    assert back_after(np.concatenate([before, np.zeros(2 * WINDOW)]), at[: 4 * WINDOW], 2 * WINDOW) is None, "never"
    assert back_after(hits, at, WINDOW // 2) is None and back_after(hits, at, len(hits) - 5) is None, "too few on one side"


def test_look_ups_beside_a_training_are_compared_with_the_same_ones_of_a_pass_without() -> None:
    beside = [False] * 100 + [True] * 100
    found = lookups([9.0] * 100 + [2.0] * 100, beside, idle_ms=[7.0] * 100 + [1.0] * 100)
    assert found == {"idle": 1.0, "training": 2.0, "ratio": 2.0, "within": False}
    assert lookups([1.0], [True], idle_ms=[1.0])["within"] is True
    assert lookups([1.0], [False], idle_ms=[1.0]) == {"idle": None, "training": None, "ratio": None, "within": None}


def test_a_small_world_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(learning, "WORLD", WorldConfig(seed=2, users=60, items=60, events=2600))
    monkeypatch.setattr(learning, "TRAIN_EVENTS", 10**9)  # no training but the first
    monkeypatch.setattr(loop, "FIRST_SECONDS_MAX", 2.0)
    monkeypatch.setattr(learning, "fetch_movielens", lambda cache: pytest.fail("nothing is fetched where data was given"))
    ratings = tmp_path / "u.data"
    ratings.write_text("".join(f"u{n % 9}\ti{n % 31}\t5\t{n}\n" for n in range(400)))
    assert main(["--data", str(ratings), "--events-per-s", "100000", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["streams"]
    world = found["world, seed 2"]
    assert set(world["hit_at_10"]) == {NONE, WEIGHTS, HEADS, BOTH, *CONTROLS} and world["drift_at"] > 0
    assert all(len(world["gate"][way]) == 1 and world["training_s_per_10k_events"][way] > 0 for way in (WEIGHTS, HEADS, BOTH))
    assert found[f"{tmp_path.name}/u"]["drift_at"] is None and found[f"{tmp_path.name}/u"]["back_after"] is None
    assert len(list((tmp_path / "out").glob("learning-*.html"))) == 6
    assert main(["--data", str(tmp_path / "nothing")]) == 2
