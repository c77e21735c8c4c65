"""What a version carries of the ridge: which items, whose order, and within which time."""

import numpy as np
import pytest

from encoders.linear import BAG_ITEMS
from trainers.ease import Ease
from trainers.linear import CUBE_S, LIKINGS_MAX, PENALTY, Ridge, fitted, heaviest
from trainers.samples import EventColumns, Placed
from trainers.sequence_counts import ragged

IDS = np.arange(100, 110, dtype=np.uint64)


def events(rows: list[int], *, users: list[int], ts_ms: list[int] | None = None) -> Placed:
    count = len(rows)
    columns = EventColumns(
        np.array(users, np.uint64), IDS[rows], np.zeros(count, np.uint8), np.array(ts_ms or range(count), dtype=np.int64)
    )  # fmt: skip
    return Placed(columns, np.array(rows, dtype=np.int64))


def test_the_solution_is_that_of_the_normal_equations() -> None:
    random = np.random.default_rng(1)
    sequences = [random.integers(0, 5, size=n) for n in (2, 9, 70)]
    inputs, targets = [], []
    for sequence in sequences:
        for t in range(len(sequence) - 1):
            bags = np.zeros(10)
            for p in range(min(t + 1, BAG_ITEMS)):
                bags[sequence[t - p]] += 0.5**p
                bags[5 + sequence[t - p]] += 0.9**p
            inputs.append(bags)
            targets.append(np.eye(5)[sequence[t + 1]])
    a, y = np.array(inputs), np.array(targets)
    assert Ridge.fit(ragged(sequences), 5).weights == pytest.approx(np.linalg.solve(a.T @ a + PENALTY * np.eye(10), a.T @ y))


def test_a_versions_weights_are_the_ridges_of_each_users_order_in_time() -> None:
    random = np.random.default_rng(4)
    rows, users, ts_ms = (random.integers(0, high, size=200) for high in (10, 7, 50))
    found = fitted(events(rows.tolist(), users=users.tolist(), ts_ms=ts_ms.tolist()), IDS, seconds_max=1.0)
    sequences = [np.array([rows[n] for n in np.lexsort((np.arange(200), ts_ms)) if users[n] == user]) for user in range(7)]
    followers, weights = heaviest(Ridge.fit(ragged(sequences), 10).weights.reshape(2, 10, 10), 10)
    assert np.array_equal(found.ids, IDS)
    assert found.ease_weights == pytest.approx(heaviest(Ease.fit(ragged(sequences), 10).weights, 10)[1])
    assert np.array_equal(found.followers, followers)
    assert found.weights == pytest.approx(weights)


def test_what_the_time_does_not_go_to_are_the_least_liked_items() -> None:
    rows = [n for n in range(10) for _ in range(n)]
    found = fitted(events(rows, users=[1] * len(rows)), IDS, seconds_max=CUBE_S * 4.5**3)
    assert found.ids.tolist() == [106, 107, 108, 109]
    everything = fitted(events(rows, users=[1] * len(rows)), IDS, seconds_max=10.0)
    assert everything.ids.tolist() == list(range(101, 110)), "what nobody liked leads nowhere"


def test_nothing_to_fit_is_no_weights() -> None:
    assert len(fitted(events([], users=[]), IDS, seconds_max=1.0)) == 0
    assert len(fitted(events([], users=[]), IDS[:0], seconds_max=1.0)) == 0
    assert len(fitted(events([1, 2], users=[1, 1]), IDS, seconds_max=0.0)) == 0


def test_one_item_and_one_user_are_no_trouble() -> None:
    found = fitted(events([3, 3, 3], users=[1, 1, 1], ts_ms=[5, 5, 5]), IDS, seconds_max=1.0)
    assert found.ids.tolist() == [103] and found.weights.shape == (2, 1, 1) and np.isfinite(found.weights).all()


def test_old_likings_beyond_the_bound_are_not_looked_at() -> None:
    columns = EventColumns(
        np.arange(LIKINGS_MAX + 2, dtype=np.uint64), IDS[np.zeros(LIKINGS_MAX + 2, dtype=np.int64)],
        np.zeros(LIKINGS_MAX + 2, np.uint8), np.zeros(LIKINGS_MAX + 2, np.int64),
    )  # fmt: skip
    rows = np.ones(LIKINGS_MAX + 2, dtype=np.int64)
    rows[:2] = 0
    assert fitted(Placed(columns, rows), IDS, seconds_max=1.0).ids.tolist() == [101]
