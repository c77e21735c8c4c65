"""Drift is told when outcomes fall, and neither when nothing changes nor when they rise."""

import numpy as np

from trainers.drift import Drift


def told(means: list[float], *, each: int = 1500, seed: int = 0) -> list[int]:
    """Where a drift was told in a stream of hits whose rate is one of these after the other."""
    generator, drift, found = np.random.default_rng(seed), Drift(), list[int]()
    for n, rate in enumerate(np.repeat(means, each)):
        if drift.update(float(generator.random() < rate)):
            found.append(n)
    return found


def test_a_fall_is_told_soon_after_it() -> None:
    for seed in range(5):
        found = told([0.3, 0.1], seed=seed)
        assert found and 1500 <= found[0] < 2200


def test_a_steady_rate_and_a_rise_are_no_drift() -> None:
    assert sum(bool(told([0.2, 0.2], seed=seed)) for seed in range(20)) <= 1
    assert not any(told([0.1, 0.4], seed=seed) for seed in range(5))


def test_it_says_from_where_to_where() -> None:
    drift = Drift()
    for _ in range(300):
        drift.update(1.0)
    reasons = [reason for reason in (drift.update(0.0) for _ in range(300)) if reason]
    assert reasons[0].startswith("the mean outcome fell from ")
    assert drift.mean < 0.1
