"""The counting baselines against an implementation that is nothing but the protocol's sentences."""

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from storage.arrays import I64s
from trainers.baselines import Baseline, Baselines, Mix, RecentPopular, _SparsePairs, item_knn, seq_rules

NUM_ITEMS = 40


def stream(seed: int, events: int = 600) -> Iterator[tuple[I64s, int]]:
    """(history newest first, next row) of a few users, without repeats."""
    generator = np.random.default_rng(seed)
    histories: dict[int, list[int]] = defaultdict(list)
    for _ in range(events):
        user, row = int(generator.integers(25)), int(generator.zipf(1.4)) % NUM_ITEMS
        if row in histories[user]:
            continue
        yield np.array(histories[user], dtype=np.int64), row
        histories[user].insert(0, row)


class Slow:
    """Plain dictionaries and loops; shares no code with the product."""

    def __init__(self) -> None:
        self.n: dict[int, float] = defaultdict(float)
        self.faded: dict[int, float] = defaultdict(float)
        self.both: dict[tuple[int, int], float] = defaultdict(float)
        self.rules: dict[tuple[int, int], float] = defaultdict(float)

    def learn(self, history: list[int], row: int) -> None:
        for p, other in enumerate(history[:10]):
            self.both[other, row] += 1
            self.both[row, other] += 1
            self.rules[other, row] += 1 / (p + 1)
            self.rules[row, other] += 0.5 / (p + 1)
        for item in self.faded:
            self.faded[item] *= 0.996
        self.faded[row] += 1
        self.n[row] += 1

    def scores(self, history: list[int]) -> dict[str, list[float]]:
        by_name: dict[str, list[float]] = defaultdict(list)
        for q in range(NUM_ITEMS):
            sums = {"knn": 0.0, "rules": 0.0}
            for p, j in enumerate(history[:10]):
                scale = 0.8**p / ((self.n[j] + 10) * (self.n[q] + 10)) ** 0.5
                sums["knn"] += scale * self.both[j, q]
                sums["rules"] += scale * self.rules[j, q]
            by_name["pop"].append(self.n[q])
            by_name["recent"].append(self.faded[q])
            by_name["knn"].append(sums["knn"])
            by_name["rules"].append(sums["rules"])
            by_name["mix"].append(sums["rules"] + 0.01 * self.faded[q])
        return by_name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dense_items_max", [0, NUM_ITEMS])
def test_every_baseline_scores_as_the_protocol_says(seed: int, dense_items_max: int) -> None:
    fast, slow = Baselines(NUM_ITEMS, dense_items_max=dense_items_max), Slow()
    for history, row in stream(seed):
        wanted = slow.scores(history.tolist())
        got = fast.scores(history)
        assert set(got) == set(wanted)
        for name, scores in got.items():
            np.testing.assert_allclose(scores, wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
        fast.learn(history, row)
        slow.learn(history.tolist(), row)


def test_sequential_rules_beat_popularity_where_order_is_planted() -> None:
    generator = np.random.default_rng(3)
    baselines, hits = Baselines(NUM_ITEMS), {"pop": 0, "rules": 0}
    for _ in range(200):
        start, history = int(generator.integers(NUM_ITEMS)), np.zeros(0, dtype=np.int64)
        for step in range(6):
            row = (start + step) % NUM_ITEMS
            scores = baselines.scores(history)
            for name in hits:
                hits[name] += int((scores[name] > scores[name][row]).sum() == 0 and scores[name][row] > 0)
            baselines.learn(history, row)
            history = np.concatenate([[row], history])
    assert hits["rules"] > 3 * hits["pop"] > 0


def test_a_sparse_matrix_gives_the_same_bits_as_a_dense_one() -> None:
    makers: tuple[Callable[..., Baseline], ...] = (item_knn, seq_rules, Mix)
    for make in makers:
        dense, sparse = make(NUM_ITEMS), make(NUM_ITEMS, dense_items_max=NUM_ITEMS - 1)
        for history, row in stream(7):
            np.testing.assert_array_equal(dense.scores(history), sparse.scores(history))
            dense.learn(history, row)
            sparse.learn(history, row)


def test_fading_forwards_survives_its_own_rescaling() -> None:
    fading, faded = RecentPopular(5), np.zeros(5)
    generator, empty = np.random.default_rng(0), np.zeros(0, dtype=np.int64)
    for row in generator.integers(0, 5, size=100_000).tolist():
        faded *= 0.996
        faded[row] += 1
        fading.learn(empty, row)
    np.testing.assert_allclose(fading.scores(empty), faded, rtol=1e-9)


def test_only_the_last_ten_of_a_history_count() -> None:
    rules = seq_rules(NUM_ITEMS)
    long = np.arange(15, dtype=np.int64)
    rules.learn(long, 20)
    np.testing.assert_array_equal(rules.scores(long), rules.scores(long[:10]))
    assert rules.scores(np.array([9]))[20] > 0
    assert rules.scores(np.array([10]))[20] == 0


def test_an_empty_history_and_unseen_items_score_zero_and_finite() -> None:
    baselines = Baselines(NUM_ITEMS)
    for history in (np.zeros(0, dtype=np.int64), np.array([3], dtype=np.int64)):
        for scores in baselines.scores(history).values():
            assert scores.shape == (NUM_ITEMS,)
            assert not scores.any()


def test_a_full_sparse_row_gives_up_its_smallest_count() -> None:
    pairs = _SparsePairs(NUM_ITEMS, row_max=3)
    one = np.ones(1, dtype=np.int32)
    for column, times in ((5, 3), (6, 1), (7, 2), (8, 1)):
        for _ in range(times):
            pairs.add(np.array([0]), np.array([column]), one)
    total = pairs.weighted_sum(np.array([0]), np.ones(1))
    assert {row: total[row] for row in np.flatnonzero(total).tolist()} == {5: 3, 7: 2, 8: 1}
