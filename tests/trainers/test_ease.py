"""EASE against its definition: each item's weights are a ridge regression of it on all others, without itself."""

import numpy as np
import pytest

from trainers.ease import PENALTY, Ease
from trainers.sequence_counts import ragged

ITEMS = 6


def test_each_column_is_the_ridge_of_one_item_on_all_others() -> None:
    random = np.random.default_rng(3)
    sequences = [random.integers(0, ITEMS, size=n) for n in (0, 1, 4, 9, 30)]
    had = np.array([np.isin(np.arange(ITEMS), sequence) for sequence in sequences], dtype=float)
    ease = Ease.fit(ragged(sequences), ITEMS)
    for item in range(ITEMS):
        others = np.arange(ITEMS) != item
        gram = had[:, others].T @ had[:, others] + PENALTY * np.eye(ITEMS - 1)
        assert ease.weights[others, item] == pytest.approx(np.linalg.solve(gram, had[:, others].T @ had[:, item]))
        assert ease.weights[item, item] == 0.0


def test_scores_are_of_what_was_had_not_of_how_often_or_when() -> None:
    ease = Ease.fit(ragged([np.array([0, 1, 2]), np.array([1, 2]), np.array([2, 3])]), 4)
    scores = ease.scores(ragged([np.array([0, 1]), np.array([1, 0, 0]), np.array([], dtype=np.int64)]))
    assert scores[0] == pytest.approx(ease.weights[0] + ease.weights[1])
    assert np.array_equal(scores[0], scores[1]) and not scores[2].any()


def test_nobody_and_nothing_to_fit_give_no_weight() -> None:
    assert not Ease.fit(ragged([]), 3).weights.any()
    assert Ease.fit(ragged([]), 0).weights.shape == (0, 0)
