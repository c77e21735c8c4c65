"""Fitting a blend: planted weights, noise that moves nothing, bad cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.blend import Blend
from trainers.blend import SHARES, Case, best_of, shared_out, sharpen, weighed
from trainers.metrics import discounted_gain, mid_ranks

START = Blend(("a", "b", "c"), np.array([1.0, 1.0, 1.0]))


def planted(weights: list[float], *, cases: int = 400, seed: int = 0) -> list[Case]:
    """Ragged candidates whose taken one is drawn from the softmax of the planted weights."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(cases):
        features = random.normal(size=(int(random.integers(2, 30)), len(weights)))
        noisy = features @ weights + random.gumbel(size=len(features))
        found.append(Case(features, int(noisy.argmax())))
    return found


def quality(cases: list[Case], blend: Blend) -> float:
    """Mean discounted gain, by the metrics' own mid-ranks."""
    ranks = [int(mid_ranks(blend.score(case.features.astype(np.float64))[None], np.array([case.target]))[0]) for case in cases]
    return float(discounted_gain(np.array(ranks)).mean())


def test_the_planted_source_comes_to_the_front() -> None:
    blend = sharpen(planted([3.0, 0.3, 0.0], cases=1500), START)
    assert blend.weights[0] > 2.0
    assert blend.weights[2] < 0.2
    assert blend.weights.sum() == pytest.approx(3.0)


@given(st.integers(0, 10**6))
def test_on_its_own_cases_it_is_never_worse_than_where_it_started(seed: int) -> None:
    random = np.random.default_rng(seed)
    cases = planted(list(random.normal(size=3)), cases=60, seed=seed)
    assert quality(cases, sharpen(cases, START)) >= quality(cases, START) - 1e-6


def test_what_is_planted_for_one_window_holds_on_the_next() -> None:
    blend = sharpen(planted([2.0, -1.0, 0.0], cases=800, seed=1), START)
    fresh = planted([2.0, -1.0, 0.0], cases=800, seed=2)
    assert quality(fresh, blend) > quality(fresh, START) + 0.02


def test_parts_are_shared_out_as_another_blend_has_them_and_the_rest_stays() -> None:
    blend = shared_out(Blend(("a", "b", "c", "d"), np.array([2.0, 1.0, 3.0, 0.5])), Blend(("d", "b"), np.array([0.2, 0.4])))
    assert blend.sources == ("a", "b", "c", "d")
    assert blend.weights.tolist() == pytest.approx([2.0, 1.0, 3.0, 0.5])
    turned = shared_out(START, Blend(("c", "b"), np.array([0.0, 5.0])))
    assert turned.weights.tolist() == pytest.approx([1.0, 2.0, 0.0])


def test_the_best_of_blends_is_the_one_that_ranks_highest_and_the_first_of_equals() -> None:
    cases, planted_blend = planted([3.0, 0.3, 0.0], cases=300), Blend(START.sources, np.array([3.0, 0.3, 0.0]))
    assert quality(cases, planted_blend) > quality(cases, START)
    assert best_of(cases, [START, planted_blend]) is planted_blend
    twice = Blend(START.sources, 2 * START.weights)
    assert best_of(cases, [twice, START]) is twice
    assert best_of([], [START, planted_blend]) is START


def test_a_source_weighs_what_ranks_highest_whatever_it_weighed_before() -> None:
    cases = planted([0.3, 1.0, 1.0], cases=1500)
    found = [weighed(cases, Blend(START.sources, np.array([prior, 1.0, 1.0])), "a") for prior in (0.0, 0.3, 5.0)]
    shares = [blend.weights[0] / blend.weights[1:].sum() for blend in found]
    assert shares[0] == pytest.approx(shares[1]) and shares[0] == pytest.approx(shares[2])
    assert 0.05 <= shares[0] <= 0.3
    assert [blend.weights.sum() for blend in found] == pytest.approx([2.0, 2.3, 7.0])
    assert weighed(planted([-1.0, 1.0, 1.0], cases=300), START, "a").weights[0] == 0.0
    assert weighed([], START, "a") is START


def test_a_source_weighs_no_more_than_it_is_shown_to_be_worth() -> None:
    """What one person likes may be that person's way: the least that does about as well is taken."""
    planted_cases, noise = planted([2.0, 1.0, 1.0], cases=400), planted([0.0, 1.0, 1.0], cases=400, seed=1)

    def share(cases: list[Case]) -> float:
        weights = weighed(cases, START, "a").weights
        return float(weights[0] / weights[1:].sum())

    everybody = share(planted_cases + noise)
    one_person = share([Case(case.features, case.target, "u1") for case in planted_cases] + noise)
    best = max(SHARES, key=lambda found: quality(planted_cases + noise, Blend(START.sources, np.array([2.0 * found, 1.0, 1.0]))))
    assert 0.0 < one_person < everybody <= best


@pytest.mark.parametrize("askers", [1, 4])
def test_what_few_do_over_and_over_moves_nothing(askers: int) -> None:
    cases = planted([2.0, 0.2, 0.2], cases=400)
    assert (sharpen(cases, START).weights != START.weights).any()
    asked = [Case(case.features, case.target, f"u{n % askers}") for n, case in enumerate(cases)]
    assert (sharpen(asked, START).weights == START.weights).all()


def test_noise_moves_nothing() -> None:
    kept = sum((sharpen(planted([0.0, 0.0, 0.0], cases=200, seed=seed), START).weights == START.weights).all() for seed in range(10))
    assert kept >= 5, "at two standard errors most searches over pure noise end where they began"


def test_it_is_deterministic_and_without_cases_the_start_is_all_there_is() -> None:
    cases = planted([1.0, 0.5, 0.2])
    assert (sharpen(cases, START).weights == sharpen(cases, START).weights).all()
    assert sharpen([], START) is START


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Case(np.zeros((4, 2)), 0), "3 sources"),
        (Case(np.zeros((4, 3)), 4), "row 4 of 4"),
        (Case(np.full((4, 3), np.nan), 0), "NaN or infinite"),
    ],
)
def test_a_bad_case_is_told_by_its_number(case: Case, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sharpen([case], START)
