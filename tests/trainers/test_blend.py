"""Fitting a blend: planted weights, single sources beaten, priors, bad cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.blend import Blend
from trainers.blend import Case, blend_loss, fit_blend

PRIOR = Blend(("a", "b", "c"), np.array([1.0, 1.0, 1.0]))


def planted(weights: list[float], *, cases: int = 400, seed: int = 0) -> list[Case]:
    """Ragged candidates whose taken one is drawn from the softmax of the planted weights."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(cases):
        features = random.normal(size=(int(random.integers(2, 30)), len(weights)))
        noisy = features @ weights + random.gumbel(size=len(features))
        found.append(Case(features, int(noisy.argmax())))
    return found


def test_planted_weights_come_back() -> None:
    blend = fit_blend(planted([2.0, 0.5, 0.0], cases=2000), PRIOR, l2=1e-6, non_negative=False)
    assert blend.sources == PRIOR.sources
    assert np.abs(blend.weights - [2.0, 0.5, 0.0]).max() < 0.15


def test_a_source_that_misleads_gets_nothing_or_less() -> None:
    cases = planted([2.0, -1.0, 0.0])
    assert fit_blend(cases, PRIOR).weights[1] == 0
    assert fit_blend(cases, PRIOR, non_negative=False).weights[1] < -0.5


@given(st.integers(0, 10**6))
def test_on_its_own_cases_it_is_never_worse_than_the_best_single_source(seed: int) -> None:
    random = np.random.default_rng(seed)
    cases = planted(list(random.normal(size=3)), cases=40, seed=seed)
    fitted = blend_loss(cases, fit_blend(cases, PRIOR, l2=1e-9))
    for source in range(3):
        for scale in (0.1, 0.5, 1.0, 2.0, 4.0):
            alone = Blend(PRIOR.sources, scale * np.eye(3)[source])
            assert fitted <= blend_loss(cases, alone) + 1e-6


def test_the_gradient_is_zero_at_the_answer_and_the_fit_is_deterministic() -> None:
    cases = planted([1.0, 0.5, 0.2])
    blend = fit_blend(cases, PRIOR, l2=0.0, non_negative=False)
    for step in np.eye(3) * 1e-3:
        assert blend_loss(cases, Blend(PRIOR.sources, blend.weights + step)) >= blend_loss(cases, blend) - 1e-9
        assert blend_loss(cases, Blend(PRIOR.sources, blend.weights - step)) >= blend_loss(cases, blend) - 1e-9
    assert (fit_blend(cases, PRIOR).weights == fit_blend(cases, PRIOR).weights).all()


def test_a_strong_prior_wins_and_without_cases_it_is_all_there_is() -> None:
    assert np.abs(fit_blend(planted([5.0, 0.0, 0.0]), PRIOR, l2=1e6).weights - 1).max() < 1e-4
    assert fit_blend([], PRIOR) is PRIOR


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(np.zeros((3, 2)), 0), "3 sources"),
        (Case(np.zeros((3, 3)), 3), "row 3 of 3"),
        (Case(np.full((3, 3), -np.inf), 0), "NaN or infinite"),
    ],
)
def test_cases_that_do_not_fit_are_refused(case: Case, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_blend([case], PRIOR)
