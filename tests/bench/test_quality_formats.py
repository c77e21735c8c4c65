"""Splits that leak nothing, ranks against a slow walk, and a report of each format from end to end on small synthetic files."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality import asking, loo, prequential, sessions
from bench.quality.__main__ import main
from bench.quality.asking import Questions, nothing, ranks_of
from bench.quality.blending import RETRIEVED_MAX, case_of, choose
from bench.quality.events import read_events
from bench.quality.freshness import run as run_freshness
from bench.quality.layouts import BadData, read_loo
from bench.quality.progress import Watch, silent
from bench.quality.report import against_best, cases, figures
from encoders.base import F64s, I64s, Ragged
from trainers.metrics import MISSED
from trainers.sequence_baselines import LooBaselines

KEYS = {
    "format", "dataset", "sha256", "rows_dropped", "catalogue", "n_test", "refit", "seed", "systems", "seconds", "peak_rss_mb", "threads",
    "commit", "versions",
}  # fmt: skip
USERS, ITEMS = 40, 30


def still() -> float:
    return 0.0


def lists(found: Ragged) -> list[list[int]]:
    return [found.values[begin:end].tolist() for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@pytest.fixture
def walks() -> list[list[int]]:
    """Users who mostly take the next item of a ring."""
    random = np.random.default_rng(0)
    steps = 1 + (random.random((USERS, 12)) < 0.2) * random.integers(0, 9, size=(USERS, 12))
    return ((random.integers(0, ITEMS, size=(USERS, 1)) + steps.cumsum(axis=1)) % ITEMS).tolist()  # type: ignore[no-any-return]  # numpy's tolist


def written(path: Path, rows: list[list[int]], *, users: bool) -> Path:
    path.write_text("".join(" ".join(map(str, [f"u{n}", *row] if users else row)) + "\n" for n, row in enumerate(rows)))
    return path


def test_loo_splits_off_the_last_two_and_small_users_only_train(tmp_path: Path) -> None:
    parts = loo.split(read_loo([written(tmp_path / "data", [[0, 1, 2, 3], [4, 5], [0, 1, 0]], users=True)]))
    assert lists(parts.train) == [[0, 1], [4, 5], [0]]
    assert lists(parts.validation.inputs) == [[0, 1], [0]] and parts.validation.targets.tolist() == [2, 1]
    assert lists(parts.test.inputs) == [[0, 1, 2], [0, 1]] and parts.test.targets.tolist() == [3, 0]
    assert lists(parts.test.left_out) == [[0, 1, 2], [0, 1]]


def test_a_target_already_seen_is_a_miss(tmp_path: Path) -> None:
    found = loo.run([written(tmp_path / "data", [[0, 1, 0], [0, 1, 2]], users=True)], seed=0, clock=still, bar=silent)
    assert all(ranks[0] == MISSED and ranks[1] == 1 for ranks in found.ranks.values()), "of three items two are seen"
    assert figures("loo", found.ranks["pop"])["MRR"] == 0.5


def test_changed_test_items_change_no_weight_and_no_count(tmp_path: Path, walks: list[list[int]]) -> None:
    changed = [[*walk[:-1], (walk[-1] + 7) % ITEMS] for walk in walks]
    everything = list(range(ITEMS))
    blends, scores = list[F64s](), list[dict[str, F64s]]()
    for name, rows in (("one", walks), ("other", changed)):
        data = read_loo([written(tmp_path / name, [everything, *rows], users=True)])
        parts = loo.split(data)
        systems = LooBaselines(parts.train, ITEMS)
        blends.append(choose(systems, parts.validation, num_items=ITEMS, seed=0, advance=lambda n: None).weights)
        scores.append(systems.scores(parts.validation.inputs))
    assert blends[0].tolist() == blends[1].tolist()
    assert all((scores[0][name] == scores[1][name]).all() for name in scores[0])


def test_changed_test_rows_change_no_weight_of_sessions(tmp_path: Path, walks: list[list[int]]) -> None:
    train, weights = written(tmp_path / "train", walks, users=False), list[list[float]]()
    for text in ("1 2\t3\n", "4\t9\n5 9\t1\n"):
        (tmp_path / "test").write_text(text)
        found = sessions.run([train, tmp_path / "test"], seed=0, clock=still, bar=silent)
        weights.append(found.blend.weights.tolist())
    assert weights[0] == weights[1] and found.refit is True


def test_validation_is_every_prefix_of_the_newest_tenth() -> None:
    found = sessions.prefixes(sessions.between(Ragged(np.arange(7), np.array([0, 1, 3, 6, 7])), 1, 4))
    assert lists(found.inputs) == [[1], [3], [3, 4]] and found.targets.tolist() == [2, 4, 5] and len(nothing(3)) == 3


def slow_ranks(events: list[tuple[int, int, int]], *, block: bool) -> list[int]:
    """Ranks by POP, one event of (user, item, time) after the other, or times at once."""
    catalogue = {item for _, item, _ in events}
    ordered = sorted(events, key=lambda event: event[2])
    had: dict[int, set[int]] = {}
    counts = dict.fromkeys(catalogue, 0)
    ranks = []
    groups = [[at for at in range(len(ordered)) if ordered[at][2] == time] for time in sorted({time for *_, time in ordered})]
    for group in groups if block else [[at] for at in range(len(ordered))]:
        for at in group:
            user, item, _ = ordered[at]
            seen = had.get(user, set())
            if at >= len(ordered) // 5 and seen and item not in seen:
                others = [counts[other] for other in catalogue - seen - {item}]
                ranks.append(1 + sum(n > counts[item] for n in others) + sum(n == counts[item] for n in others) // 2)
        for at in group:
            user, item, _ = ordered[at]
            if item not in had.setdefault(user, set()):
                had[user].add(item)
                counts[item] += 1
    return ranks


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 5)), min_size=12, max_size=40))
def test_prequential_ranks_equal_a_slow_walk_for_both_kinds_of_ties(events: list[tuple[int, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        path.write_text("".join(f"u{user}\ti{item}\t1\t{time}\n" for user, item, time in events))
        read = read_events(path)
    for block, blocks in ((False, np.arange(len(events) + 1)), (True, read.blocks)):
        found = prequential.walked(read, blocks, clock=still, bar=silent)
        wanted = slow_ranks(events, block=block)
        assert found.ranks["pop"].tolist() == wanted
        assert found.more["not_ranked"] == len(events) - len(events) // 5 - len(wanted)


def test_later_events_change_no_weight_of_the_blend(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    blends = list[list[float]]()
    for shift in (0, 5):
        rows = [(n % 9, (n // 9 + n * n % 5 + (shift if n >= 80 else 0)) % 25, n) for n in range(400)]
        path = tmp_path / f"events{shift}"
        path.write_text("".join(f"{user}\t{item}\t{random.integers(5)}\t{time}\n" for user, item, time in rows))
        blends.append(prequential.run([path], seed=0, clock=still, bar=silent).blend.weights.tolist())
    assert blends[0] == blends[1]


def test_streamed_equals_full_and_stale_does_not(tmp_path: Path, walks: list[list[int]]) -> None:
    train = written(tmp_path / "train", walks, users=False)
    (tmp_path / "test").write_text("".join(f"{a} {(a + 1) % ITEMS}\t{(a + 2) % ITEMS}\n" for a in range(ITEMS)))
    found = run_freshness([train, tmp_path / "test"], [0, 50], seed=0, watch=Watch(still, silent))
    by_share = found.more["withheld"]
    assert isinstance(by_share, dict)
    for name in ("pop", "recent", "knn", "rules", "session_knn"):
        half = by_share["50"][name]
        assert half["streamed"] == half["full"] == by_share["0"][name]["stale"]
        loss = {figure: half["full"][figure] - half["stale"][figure] for figure in ("P@20", "MRR@20")}
        assert half["recovered"] == {figure: 1.0 if lost else None for figure, lost in loss.items()}
    assert by_share["50"]["session_knn"]["stale"] != by_share["50"]["session_knn"]["full"]


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("1 2\n2 3\n")
    (tmp_path / "test").write_text("1\t2\n")
    with pytest.raises(BadData, match="--withhold 60: of 2 sessions 0 stay"):
        run_freshness([tmp_path / "train", tmp_path / "test"], [60], seed=0, watch=Watch(still, silent))


def test_figures_by_hand() -> None:
    ranks = np.array([1, 3, 11, MISSED])
    assert figures("sessions", ranks) == pytest.approx(
        {"P@20": 75.0, "P@10": 50.0, "MRR@20": 25 * (1 + 1 / 3 + 1 / 11), "MRR@10": 25 * (1 + 1 / 3)}
    )
    found = figures("loo", ranks)
    assert (
        found["NDCG@10"] == pytest.approx((1 + 0.5) / 4)
        and found["HR@5"] == 0.5
        and found["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    )
    assert cases("MRR", ranks)[3] == 0.0
    with pytest.raises(BadData, match="nothing to rank"):
        figures("loo", ranks[:0])


def test_the_blend_is_compared_with_the_best_single_source_of_each_headline() -> None:
    ranks = {"one": np.array([1, 50, 50]), "other": np.array([9, 9, 50]), "blend": np.array([1, 9, 50])}
    found = against_best("loo", ranks, seed=0)
    assert found["HR@10"] == {"best": "other", "gain": 0.0, "low": 0.0, "high": 0.0}
    assert isinstance(found["NDCG@10"], dict) and found["NDCG@10"]["best"] == "one" and found["NDCG@10"]["gain"] > 0


class Fixed:
    """Two sources: one knows the answer, the other knows it for every third question and is wrong otherwise."""

    names = ("wrong", "right")

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        asked = inputs.values
        right, wrong = np.zeros((len(asked), 20)), np.zeros((len(asked), 20))
        right[np.arange(len(asked)), (asked + 1) % 20] = 1.0
        wrong[np.arange(len(asked)), (asked + np.where(asked % 3, 2, 1)) % 20] = 1.0
        return {"wrong": wrong, "right": right}


def test_the_blend_starts_as_the_best_source_and_needs_evidence_to_leave_it() -> None:
    asked: I64s = np.arange(60) % 20
    inputs = Ragged(asked, np.arange(61))
    questions = Questions(inputs, (asked + 1) % 20, nothing(60))
    assert choose(Fixed(), questions, num_items=20, seed=0, advance=lambda n: None).weights.tolist() == [0.0, 1.0]
    assert choose(Fixed(), questions.take(np.arange(0)), num_items=20, seed=0, advance=lambda n: None).weights.tolist() == [0.0, 1.0]


class Halves:
    """Two sources that each name the answer among 29 wrong ones, no two of them the same."""

    names = ("low", "high")

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        low, high = np.zeros((len(inputs), 400)), np.zeros((len(inputs), 400))
        for row, asked in enumerate(inputs.values.tolist()):
            low[row, [asked, *range(100, 129)]] = 1.0
            high[row, [asked, *range(200, 229)]] = 1.0
        return {"low": low, "high": high}


def test_the_blend_takes_from_both_where_they_complete_each_other() -> None:
    asked: I64s = np.arange(80)
    questions = Questions(Ragged(asked, np.arange(81)), asked, nothing(80))
    blend = choose(Halves(), questions, num_items=400, seed=0, advance=lambda n: None)
    assert (blend.weights > 0).all()
    ranks = ranks_of(Halves(), questions, blend, num_items=400, advance=lambda n: None)
    assert set(ranks["blend"]) == {1} and set(ranks["low"]) == set(ranks["high"]) == {15}


def test_blocks_of_any_size_give_the_same_ranks(monkeypatch: pytest.MonkeyPatch, walks: list[list[int]], tmp_path: Path) -> None:
    path, told = written(tmp_path / "data", walks, users=True), list[int]()
    parts = loo.split(read_loo([path]))
    systems = LooBaselines(parts.train, ITEMS)
    whole = ranks_of(systems, parts.test, None, num_items=ITEMS, advance=told.append)
    monkeypatch.setattr(asking, "CELLS_MAX", 3 * ITEMS)
    cut = ranks_of(systems, parts.test, None, num_items=ITEMS, advance=told.append)
    assert told == [USERS, *[3] * (USERS // 3), USERS % 3] and set(whole) == set(systems.names)
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_a_target_that_no_source_would_retrieve_is_no_case() -> None:
    columns = np.stack([np.arange(1000.0), np.arange(1000.0)[::-1]])
    assert case_of(columns, 500, left_out=np.zeros(0, dtype=np.int64)) is None
    found = case_of(columns, 0, left_out=np.array([3, 999]))
    assert found is not None and found.target == 0 and found.features.shape == (2 * RETRIEVED_MAX, 2)
    assert found.features[0].tolist() == [0.0, 999.0] and 999.0 not in found.features[:, 0]


@pytest.mark.parametrize("form", ["loo", "sessions", "prequential"])
def test_a_report_of_each_format_from_files_to_json(
    form: str, tmp_path: Path, walks: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, test = tmp_path / "data.txt", tmp_path / "test.tsv"
    written(data, walks, users=form == "loo")
    test.write_text("".join(f"{a} {(a + 1) % ITEMS}\t{(a + 2) % ITEMS}\n" for a in range(ITEMS)))
    if form == "prequential":
        data.write_text("".join(f"{u},{item},c,pv,{place}\n" for place in range(12) for u, item in enumerate(w[place] for w in walks)))
    paths = [str(data), str(test)] if form == "sessions" else [str(data)]
    assert (
        main(
            [
                form,
                "--data",
                *paths,
                "--json",
                str(tmp_path / "out.json"),
                "--model",
                "counting",
                *(["--withhold", "10"] if form == "sessions" else []),
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert set(found) >= KEYS and json.loads((tmp_path / "out.json").read_text()) == found
    assert found["format"] == form and found["dataset"] == f"{tmp_path.name}/data" and len(found["sha256"]) == len(paths)
    assert found["refit"] is {"loo": False, "sessions": True, "prequential": None}[form] and found["catalogue"] == ITEMS
    learned, popular = ("rules", "pop")
    headline = {"loo": "HR@10", "sessions": "P@20", "prequential": "HR@10"}[form]
    assert found["systems"][learned][headline] > found["systems"][popular][headline], "the ring is learned"
    assert {"blend", "pop", "recent", "knn", "rules"} < set(found["systems"])
    assert set(found["blend"]["weights"]) == set(found["systems"]) - {"blend"}
    if form == "prequential":
        assert found["ties"] == "file" and found["block"]["systems"] != found["systems"] and found["block"]["n_test"] <= found["n_test"]
    if form == "sessions":
        assert set(found["withheld"]["10"]["rules"]) == {"full", "stale", "streamed", "recovered"}
    assert "blend minus" in printed.err


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loo", "--data", str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    (tmp_path / "short").write_text("u a\nu b\n")
    assert main(["loo", "--data", str(tmp_path / "short")]) == 2
    assert "nothing to rank" in capsys.readouterr().err
    for arguments in (["loo", "--withhold", "2"], ["sessions", "--withhold", "two"]):
        with pytest.raises(SystemExit):
            main([*arguments, "--data", str(tmp_path / "short")])
