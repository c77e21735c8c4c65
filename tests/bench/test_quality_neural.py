"""The neural source of a report: planned by shape, bounded by time, blended by its logits, gone on with, and never told of the test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.quality import loo, neural, sessions
from bench.quality.asking import Questions, blended, nothing
from bench.quality.freshness import run as run_freshness
from bench.quality.layouts import Catalogue, Described
from bench.quality.neural import Fitting, Material, Wanted, features_of, fitted, keep, planned, training_seconds
from bench.quality.progress import Watch, silent
from encoders.base import F64s, Ragged
from encoders.blend import Blend
from encoders.model import Model
from storage.ids import ITEM, hash_id
from stream.shape import Shape
from trainers.sequence_counts import ragged

ITEMS = 20


def still() -> float:
    return 0.0


def catalogue(count: int = ITEMS) -> Catalogue:
    return Catalogue({f"i{item}": item for item in range(count)})


def material(lengths: list[int], *, items: int = ITEMS) -> Material:
    random = np.random.default_rng(0)
    walks = [(random.integers(items) + np.arange(length)) % items for length in lengths]
    asked = [walk for walk in walks if len(walk) > 1]
    questions = Questions(ragged([walk[:-1] for walk in asked]), np.array([walk[-1] for walk in asked]), nothing(len(asked)))
    return Material(ragged(walks), questions, features_of(catalogue(items), Described()), exclude_seen=False)


@pytest.fixture
def walks(tmp_path: Path) -> list[Path]:
    """Sequences round a ring as loo pairs would have them, as sessions, and test rows."""
    rows = [[(start + place) % ITEMS for place in range(8)] for start in range(40)]
    paths = [tmp_path / name for name in ("users", "train", "test")]
    paths[0].write_text("".join(f"u{n} " + " ".join(map(str, row)) + "\n" for n, row in enumerate(rows)))
    paths[1].write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    paths[2].write_text("".join(f"{a} {(a + 1) % ITEMS}\t{(a + 2) % ITEMS}\n" for a in range(ITEMS)))
    return paths


def test_a_plan_follows_the_shape_of_the_data_and_a_server_can_hear_it_all() -> None:
    fitting = Fitting(Wanted(Path(), steps_max=9), 0, still, 0.0)
    short, long = (planned(material([length] * 500), fitting, seconds=60.0) for length in (4, 300))
    assert short.model.history_len == neural.HISTORY_MIN and long.model.history_len == Shape().history_max
    for plan, length in ((short, 4), (long, 100)):  # 300 actions are three windows
        assert plan.batch_windows * length == pytest.approx(neural.STEP_POSITIONS, rel=0.05)
        assert not plan.model.clock and not plan.model.surroundings and plan.seconds_max == 60.0 and plan.steps_max == 9


def test_items_have_the_ids_and_the_text_that_a_server_would_give_them() -> None:
    described = Described({"i1": "Blue heron"}, {"i2": ["a", "b"]})
    found = features_of(catalogue(4), described)
    assert found.ids.tolist() == [hash_id(f"i{item}", ITEM) for item in range(4)]
    assert [bool(size) for size in np.diff(found.text.offsets)] == [False, True, True, False]


def test_without_a_validation_question_the_last_weights_are_kept(tmp_path: Path) -> None:
    few = replace(material([8] * 30), validation=Questions(ragged([]), np.zeros(0, dtype=np.int64), nothing(0)))
    found = fitted(few, Fitting(Wanted(tmp_path, steps_max=3), 0, still, 0.0), seconds=100.0)
    assert (found.told["steps"], found.told["best_step"], found.told["validation"]) == (3, 3, {})


class Slow:
    """A counting source that takes a second of `now` for each question."""

    names = ("slow",)

    def __init__(self) -> None:
        self.now = 0.0

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        self.now += len(inputs)
        return {"slow": np.ones((len(inputs), ITEMS))}


def test_training_leaves_the_time_that_asking_will_take(tmp_path: Path) -> None:
    slow = Slow()
    fitting = Fitting(Wanted(tmp_path, minutes=30.0), 0, lambda: slow.now, 0.0)
    found = training_seconds(material([6] * 100), slow, fitting, questions=1000)
    asked = 2 * min(100, neural.PACE_QUESTIONS)
    assert found == pytest.approx(1800 - asked - neural.ASK_MARGIN * 1000 - 90)
    assert training_seconds(material([6] * 100), slow, fitting, questions=10**6) == neural.TRAIN_SECONDS_MIN


def test_a_run_that_time_ended_is_the_only_one_and_is_gone_on_with(tmp_path: Path) -> None:
    said = list[str]()
    wanted = Wanted(tmp_path, minutes=1.0, steps_max=20, told=said.append)
    found = fitted(material([8] * 30), Fitting(wanted, 0, still, 0.0), seconds=100.0)
    assert [run["dropout"] for run in found.told["runs"]] == [neural.DROPOUTS[0]], "it did not stop by itself"
    assert found.told["validation"]["MRR"] == found.told["runs"][0]["MRR"] > 0.2 and len(list(tmp_path.glob("*.run"))) == 1
    again = fitted(material([8] * 30), Fitting(wanted, 0, still, 0.0), seconds=100.0)
    assert [line.split(": ")[1].split(",")[0] for line in said] == ["goes on after step 20"]
    assert again.told["validation"]["MRR"] >= found.told["validation"]["MRR"]
    other = replace(material([8] * 30), train=material([7] * 30).train)
    fitted(other, Fitting(wanted, 0, still, 0.0), seconds=100.0)
    assert "other data, settings or code" in said[1] and len(said) == 2
    path = keep(found.model, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["model.bin"] and Model.from_bytes(path.read_bytes()).config == found.model.config


def test_what_stops_by_itself_is_tried_with_more_dropout_then_for_as_long_as_was_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be learned from noise, and the best of its checks is soon past."""
    monkeypatch.setattr(neural, "CHECK_STEPS", (1, 1))
    random = np.random.default_rng(1)
    noise = ragged([random.integers(0, ITEMS, size=8) for _ in range(30)])
    asked = Questions(noise, random.integers(0, ITEMS, size=30), nothing(30))
    found = fitted(replace(material([8]), train=noise, validation=asked), Fitting(Wanted(tmp_path), 0, still, 0.0), seconds=100.0)
    *stopped, again = found.told["runs"]
    assert len(stopped) > 1 and [run["dropout"] for run in stopped] == list(neural.DROPOUTS[: len(stopped)])
    assert all(run["steps"] == run["best_step"] + 10 for run in stopped)
    best = max(stopped, key=lambda run: run["MRR"])
    assert best in stopped[-2:], "the first that helps no longer is the last"
    assert again["steps"] == best["best_step"] > 0 and again["dropout"] == best["dropout"]
    assert found.told["validation"]["MRR"] == max(run["MRR"] for run in found.told["runs"])


def test_logits_are_blended_as_they_are_and_masses_as_log_shares() -> None:
    logits, masses = np.array([[3.0, -20.0, -40.0]]), np.array([[1.0, 0.0, 0.0]])
    total = blended(Blend(("pop", "neural"), np.array([0.5, 2.0])), {"pop": masses, "neural": logits}, nothing(1))
    assert (total[0] - 2.0 * logits[0])[1:] == pytest.approx(0.0), "what is unlikely keeps its order"
    assert total[0, 0] > 2.0 * logits[0, 0]


def test_the_neural_source_stands_in_each_report_and_alone_where_it_is_asked_for(tmp_path: Path, walks: list[Path]) -> None:
    wanted = Wanted(tmp_path / "out", minutes=1.0, steps_max=30)
    whole = loo.run(walks[:1], seed=0, clock=still, bar=silent, wanted=wanted)
    assert list(whole.ranks) == ["pop", "recent", "knn", "rules", "rules_plus", "ridge", "neural", "blend"] and "neural" in whole.more
    alone = sessions.run(walks[1:], seed=0, clock=still, bar=silent, wanted=replace(wanted, choice="neural"))
    assert list(alone.ranks) == ["neural", "blend"] and alone.blend.weights.tolist() == [1.0]
    assert np.mean(alone.ranks["neural"] <= 3) > 0.8 and (alone.ranks["neural"] == alone.ranks["blend"]).all()
    counted = loo.run(walks[:1], seed=0, clock=still, bar=silent, wanted=replace(wanted, choice="counting"))
    assert "neural" not in counted.ranks and counted.more == {}


def test_changed_test_items_change_nothing_that_is_fitted(tmp_path: Path, walks: list[Path]) -> None:
    everybody = "u " + " ".join(map(str, range(ITEMS))) + "\n"  # first, so that items have the same rows in both
    lines = [line.split() for line in walks[0].read_text().splitlines()]
    changed = tmp_path / "changed"
    changed.write_text(everybody + "".join(" ".join([*line[:-1], str((int(line[-1]) + 7) % ITEMS)]) + "\n" for line in lines))
    walks[0].write_text(everybody + walks[0].read_text())
    models = list[bytes]()
    for name, path in (("one", walks[0]), ("other", changed)):
        outcome = loo.run([path], seed=0, clock=still, bar=silent, wanted=Wanted(tmp_path / name, minutes=1.0, steps_max=5))
        models.append((tmp_path / name / "model.bin").read_bytes())
        assert outcome.refit is False
    assert models[0] == models[1]


def test_each_withheld_share_has_a_model_of_its_own_that_a_stream_leaves_alone(tmp_path: Path, walks: list[Path]) -> None:
    wanted = Wanted(tmp_path / "out", choice="neural", minutes=1.0, steps_max=5)
    found = run_freshness(walks[1:], [0, 50], seed=0, watch=Watch(still, silent), wanted=wanted)
    by_share = found.more["withheld"]
    assert isinstance(by_share, dict)
    half = by_share["50"]["neural"]
    assert half["streamed"] == half["stale"] and by_share["0"]["neural"]["full"] == by_share["0"]["neural"]["stale"]
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("model.bin")) == ["out", "withheld-50"]
