"""The decayed count-min sketch and the pools: exactness, bounds, unbiasedness."""

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.negatives import CountMin, Draws, mixed_pool, uniform_pool, whole_catalogue

STREAM = st.lists(st.tuples(st.integers(1, 30), st.floats(0, 50)), min_size=1, max_size=80)


def fed(stream: list[tuple[int, float]], *, tau: float, width: int = 2**16) -> tuple[CountMin, list[float]]:
    sketch, times = CountMin(tau=tau, seed=0, width=width), list(accumulate(step for _, step in stream))
    for (item, _), now in zip(stream, times, strict=True):
        sketch.see(np.array([item], dtype=np.uint64), now)
    return sketch, times


def exact(stream: list[tuple[int, float]], times: list[float], item: int, tau: float) -> float:
    return sum(math.exp((now - times[-1]) / tau) for (seen, _), now in zip(stream, times, strict=True) if seen == item)


@given(STREAM)
def test_without_collisions_reads_are_exact_decayed_counts(stream: list[tuple[int, float]]) -> None:
    sketch, times = fed(stream, tau=10.0)
    for item in {item for item, _ in stream}:
        found = sketch.decayed(np.array([item], dtype=np.uint64), times[-1])[0]
        assert found == pytest.approx(exact(stream, times, item, 10.0), rel=1e-9)


@given(STREAM)
def test_with_collisions_a_read_is_never_less(stream: list[tuple[int, float]]) -> None:
    sketch, times = fed(stream, tau=10.0, width=4)
    for item in range(1, 31):
        found = sketch.decayed(np.array([item], dtype=np.uint64), times[-1])[0]
        assert found >= exact(stream, times, item, 10.0) * (1 - 1e-9)


@given(STREAM, st.floats(0, 20))
def test_moving_the_landmark_changes_no_read(stream: list[tuple[int, float]], later: float) -> None:
    sketch, times = fed(stream, tau=10.0)
    ids = np.array(sorted({item for item, _ in stream}), dtype=np.uint64)
    counts, logs = sketch.decayed(ids, times[-1] + later), sketch.log_q(ids, 7)
    sketch.rescale(times[-1] + later)
    assert sketch.decayed(ids, times[-1] + later) == pytest.approx(counts, rel=1e-9)
    assert sketch.log_q(ids, 7) == pytest.approx(logs, abs=1e-9)


def test_without_decay_these_are_plain_shares() -> None:
    sketch = CountMin(tau=np.inf, seed=0)
    sketch.see(np.array([1, 1, 1, 2], dtype=np.uint64), 0.0)
    sketch.see(np.array([2, 3], dtype=np.uint64), 1e9)
    assert np.exp(sketch.log_q(np.array([1, 2, 3], dtype=np.uint64), 6)).tolist() == pytest.approx([3, 2, 1])
    assert sketch.log_q(np.array([99], dtype=np.uint64), 6)[0] == -np.inf


def test_log_q_follows_a_swap_of_rates_within_five_time_constants() -> None:
    """Papers, 5.3: rates 0.4 and 0.1 change places, tau = 10,000 events."""
    random, sketch = np.random.default_rng(0), CountMin(tau=10_000.0, seed=0)
    for start in range(0, 100_000, 100):
        odds = [0.4, 0.1, 0.5] if start < 50_000 else [0.1, 0.4, 0.5]
        sketch.see(random.choice(3, size=100, p=odds).astype(np.uint64), float(start + 100))
    found = sketch.log_q(np.array([0, 1], dtype=np.uint64), 1)
    assert abs(found[0] - np.log(0.1)) < 0.1 and abs(found[1] - np.log(0.4)) < 0.1


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"tau": 1.0, "width": 3}, {"tau": 1.0, "depth": 0}])
def test_a_sketch_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="tau must be"):
        CountMin(seed=0, **wrong)  # type: ignore[arg-type]  # that is the test


def test_expected_draws_of_both_parts_add_up() -> None:
    ids = np.arange(10, 20, dtype=np.uint64)
    sketch = CountMin(tau=np.inf, seed=0)
    sketch.see(ids[[0, 0, 0, 1]], 1.0)
    draws = Draws(ids, sketch, in_batch=8, uniform=5)
    assert np.exp(draws.log_expected(np.array([0, 1, 2]))).tolist() == pytest.approx([8 * 0.75 + 0.5, 8 * 0.25 + 0.5, 0.5])


def test_what_no_draw_can_bring_counts_as_drawn_once() -> None:
    """Pairs ask for items that no window of late took: without uniform draws their share would be nothing, and its log no number."""
    sketch = CountMin(tau=100.0, seed=0)
    ids = np.arange(1, 6, dtype=np.uint64)
    sketch.see(ids[:3], 1.0)
    sketch.see(ids[:1], 50.0)
    logs = Draws(ids, sketch, in_batch=8, uniform=0).log_expected(np.arange(5))
    assert np.isfinite(logs).all()
    assert logs[3] == logs[4]
    sketch.see(ids[3:4], 50.0)
    once = Draws(ids, sketch, in_batch=8, uniform=0).log_expected(np.array([3]))[0]
    assert logs[3] == pytest.approx(once + np.log(sketch.total) - np.log(sketch.total - np.exp(0.5)))


def test_the_mean_over_pools_is_the_sum_over_the_catalogue() -> None:
    """Papers, 1.7: mean of Σ exp(s - log_q) over draws = Σ_v exp(s_v) within 4 standard errors, for both kinds of pool."""
    random = np.random.default_rng(0)
    items, odds = 50, np.arange(1, 51) / np.arange(1, 51).sum()
    ids, scores = np.arange(1, items + 1, dtype=np.uint64), random.normal(size=items)
    sketch = CountMin(tau=np.inf, seed=0)
    sketch.see(np.repeat(ids, np.arange(1, 51)), 0.0)  # what is taken comes with exactly these odds
    draws = Draws(ids, sketch, in_batch=20, uniform=10)
    pools = [mixed_pool(random.choice(items, size=20, p=odds), draws, random) for _ in range(3000)]
    for made in (pools, [uniform_pool(items, 20, random) for _ in range(3000)]):
        sums = np.array([np.exp(scores[pool.rows] - pool.log_q).sum() for pool in made])
        assert abs(sums.mean() - np.exp(scores).sum()) < 4 * sums.std() / np.sqrt(len(sums))


def test_a_pool_holds_each_row_once_and_the_whole_one_all() -> None:
    pool = uniform_pool(10, 100, np.random.default_rng(0))
    assert len(set(pool.rows.tolist())) == len(pool.rows)
    whole = whole_catalogue(4)
    assert whole.rows.tolist() == [0, 1, 2, 3] and whole.log_q.tolist() == [0, 0, 0, 0]
