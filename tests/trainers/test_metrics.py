"""Mid-ranks against a slow count, figures by hand, the bootstrap against theory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.base import Ragged
from serving.features import EPSILON, log_shares
from trainers.kernels import add_log_shares
from trainers.metrics import MISSED, hit_rate, mid_ranks, mid_ranks_among, ndcg, paired_bootstrap, reciprocal_rank, summary


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("-inf")]), min_size=1, max_size=12), st.data())
def test_mid_rank_equals_a_slow_count(row: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(row) - 1))
    known = [float("-inf") if np.isnan(score) else score for score in row]
    above = sum(score > known[target] for score in known)
    equal = sum(score == known[target] for at, score in enumerate(known) if at != target)
    assert mid_ranks(np.array([row]), np.array([target])).tolist() == [1 + above + equal // 2]


def test_constant_scores_never_win() -> None:
    ranks = mid_ranks(np.zeros((3, 100)), np.array([0, 50, 99]))
    assert ranks.tolist() == [50, 50, 50] and summary(ranks)["HR@10"] == 0


def test_figures_by_hand() -> None:
    ranks = np.array([1, 3, 11])
    assert hit_rate(ranks, 10).tolist() == [1, 1, 0]
    assert ndcg(ranks, 10).tolist() == pytest.approx([1, 0.5, 0])
    assert reciprocal_rank(ranks).tolist() == pytest.approx([1, 1 / 3, 1 / 11])
    assert reciprocal_rank(ranks, 10).tolist() == pytest.approx([1, 1 / 3, 0])
    assert summary(np.empty(0, dtype=np.int64)) == {"HR@10": 0.0, "NDCG@10": 0.0, "MRR": 0.0}


@pytest.mark.parametrize("kind", ["any", "hits"])
def test_the_interval_of_a_paired_bootstrap_is_that_of_the_mean(kind: str) -> None:
    random = np.random.default_rng(0)
    old = random.normal(size=2000) if kind == "any" else (random.random(2000) < 0.2).astype(float)
    new = old + random.normal(0.1, 1.0, size=2000) if kind == "any" else (random.random(2000) < 0.3).astype(float)
    gain = paired_bootstrap(new, old, generator=np.random.default_rng(1))
    error = (new - old).std() / np.sqrt(2000)
    assert gain.mean == pytest.approx((new - old).mean()) and gain.cases == 2000
    assert gain.low == pytest.approx(gain.mean - 1.96 * error, abs=0.2 * error)
    assert gain.high == pytest.approx(gain.mean + 1.96 * error, abs=0.2 * error)
    assert gain == paired_bootstrap(new, old, generator=np.random.default_rng(1))


def test_equal_outcomes_have_no_gain_and_unpaired_ones_no_answer() -> None:
    same = paired_bootstrap(np.ones(5), np.ones(5), generator=np.random.default_rng(0))
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    for other in (np.ones(4), np.empty(0)):
        with pytest.raises(ValueError, match="same cases"):
            paired_bootstrap(np.ones(0 if not len(other) else 5), other, generator=np.random.default_rng(0))


SCORE = st.sampled_from([-1.0, 0.0, 1.0, 2.0, float("nan"), float("-inf")])


@given(st.lists(SCORE, min_size=2, max_size=12), st.data())
def test_a_rank_among_what_is_not_left_out_equals_a_rank_without_those(row: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(row) - 1))
    left_out = data.draw(st.lists(st.integers(0, len(row) - 1), unique=True))
    found = mid_ranks_among(np.array([row]), np.array([target]), Ragged(np.array(left_out, dtype=np.int64), np.array([0, len(left_out)])))
    if target in left_out:
        assert found.tolist() == [MISSED] and not hit_rate(found, 10**9).any()
    else:
        kept = [at for at in range(len(row)) if at not in left_out]
        assert found.tolist() == mid_ranks(np.array([row])[:, kept], np.array([kept.index(target)])).tolist()


@given(st.lists(SCORE | st.floats(0, 1e3), min_size=2, max_size=12), st.data())
def test_added_log_shares_order_items_as_the_products_log_shares_do(row: list[float], data: st.DataObject) -> None:
    left_out = data.draw(st.lists(st.integers(0, len(row) - 1), unique=True, max_size=len(row) - 1))
    total = np.full((1, len(row)), 7.0)
    offsets = np.array([0, len(left_out)])
    add_log_shares(total, np.array([row]), 0.5, EPSILON, np.array(left_out, dtype=np.int64), offsets)
    kept = [at for at in range(len(row)) if at not in left_out]
    masses = np.array([row[at] if 1e-280 < row[at] < np.inf else 0.0 for at in kept])
    if masses.sum() > 1e-200:
        wanted = log_shares(masses) - np.log(EPSILON / len(kept))
        share = len(row) / len(kept)  # the floor is spread over the catalogue, not over the candidates
        wanted = np.log1p(np.expm1(wanted) * share)
        assert total[0, kept] - 7.0 == pytest.approx(0.5 * wanted, rel=1e-6, abs=1e-9)
