"""Weights learned while a blend answers: downhill on what is taken, never below zero, and dropped once they are shown to do worse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from encoders.blend import Blend
from trainers.live_blend import FIRST_MAX, GRADIENT_MAX, LATELY, STEP, Leading, LiveBlend
from trainers.regret import LOOK_EVERY

FITTED = Blend(("told", "noise"), np.array([0.2, 1.0]))


def question(generator: np.random.Generator, *, candidates: int = 30) -> tuple[np.ndarray, int]:
    """The first source tells what is taken, the second tells nothing."""
    features, target = generator.normal(size=(candidates, 2)), int(generator.integers(candidates))
    features[target, 0] += 2.0
    return features, target


def loss(weights: np.ndarray, features: np.ndarray, target: int) -> float:
    scores = features @ weights
    return float(np.log(np.exp(scores).sum()) - scores[target])


def test_a_step_goes_down_the_gradient_of_the_likelihood() -> None:
    features, target = question(np.random.default_rng(0))
    live, width = LiveBlend(FITTED), 1e-6
    live.learn(features, target, asker="u1")
    slope = [
        (loss(FITTED.weights + width * unit, features, target) - loss(FITTED.weights - width * unit, features, target)) / (2 * width)
        for unit in np.eye(2)
    ]
    np.testing.assert_allclose(live.blend.weights, FITTED.weights - STEP * np.array(slope), rtol=1e-6)
    assert live.cases == 1


def test_what_is_not_among_the_first_teaches_nothing_and_neither_does_what_lies_behind_them() -> None:
    generator = np.random.default_rng(3)
    features, _ = question(generator, candidates=5 * FIRST_MAX)
    order = np.argsort(-FITTED.score(features))
    behind, before = LiveBlend(FITTED), LiveBlend(FITTED)
    behind.learn(features, int(order[FIRST_MAX]), asker="u1")
    assert behind.blend is FITTED and behind.cases == 1
    before.learn(features, int(order[FIRST_MAX - 1]), asker="u1")
    alone = LiveBlend(FITTED)
    alone.learn(features[order[:FIRST_MAX]], FIRST_MAX - 1, asker="u1")
    np.testing.assert_allclose(before.blend.weights, alone.blend.weights, rtol=1e-12)
    assert before.blend is not FITTED


def test_a_source_that_tells_gains_weight_and_one_that_does_not_loses_it() -> None:
    generator, live = np.random.default_rng(1), LiveBlend(FITTED)
    for n in range(3000):
        live.learn(*question(generator), asker=f"u{n % 40}")
    told, noise = live.blend.weights
    assert told > 1.0 and noise < 0.2 and live.fitted is FITTED


def test_what_was_learned_is_dropped_once_the_fitted_weights_are_shown_to_rank_better() -> None:
    generator = np.random.default_rng(2)
    good, bad = Blend(("told", "noise"), np.array([1.0, 0.0])), Blend(("told", "noise"), np.array([0.0, 3.0]))
    live, dropped = LiveBlend(good, learned=bad, cases=7), 0
    for n in range(1, 400):
        live.learn(*question(generator), asker=f"u{n % 40}")
        if live.blend is good:
            dropped = n
            break
    assert dropped > 0 and dropped % LOOK_EVERY == 0 and live.cases == 7 + dropped


@given(
    arrays(np.float64, (5, 2), elements=st.floats(-1e300, 1e300) | st.sampled_from([np.nan, np.inf, -np.inf])),
    st.integers(0, 4),
)
def test_no_question_makes_a_weight_negative_not_finite_or_far_off(features: np.ndarray, target: int) -> None:
    live = LiveBlend(FITTED)
    with np.errstate(all="ignore"):
        live.learn(features, target, asker="u1")
    moved = np.abs(live.blend.weights - FITTED.weights)
    assert (live.blend.weights >= 0).all() and (moved <= STEP * GRADIENT_MAX * (1 + 1e-12)).all()


def test_a_question_that_is_not_finite_teaches_nothing() -> None:
    live = LiveBlend(FITTED)
    live.learn(np.array([[np.nan, 0.0], [0.0, 0.0]]), 0, asker="u1")
    assert live.blend is FITTED and live.cases == 0


def test_weights_of_other_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="learned are weights of"):
        LiveBlend(FITTED, learned=Blend(("other", "noise"), np.ones(2)))


def test_of_two_sets_of_weights_the_one_that_ranked_better_lately_leads_and_both_learn() -> None:
    generator, noise = np.random.default_rng(0), Blend(FITTED.sources, np.array([0.0, 1.0]))
    live, alone = Leading(noise, stayed=FITTED, cases=3), LiveBlend(noise)
    assert live.blend == FITTED and live.cases == 3, "what stayed leads at first"
    for n in range(40):
        features, target = question(generator)
        live.learn(features, target, asker=f"u{n}")
        alone.learn(features, target, asker=f"u{n}")
    assert live.cases == 43 and live.blend.weights[0] > FITTED.weights[0], "it tells, and has learned"
    for n in range(LATELY):
        features = generator.normal(size=(30, 2))
        target = int((features @ alone.blend.weights).argmax())
        live.learn(features, target, asker=f"w{n}")
        alone.learn(features, target, asker=f"w{n}")
    assert live.blend.weights.tolist() == alone.blend.weights.tolist(), "its own, as if they had always been alone"


def test_one_set_of_weights_is_learned_as_ever_and_a_question_that_is_not_finite_teaches_neither() -> None:
    generator = np.random.default_rng(0)
    one, alone, two = Leading(FITTED), LiveBlend(FITTED), Leading(FITTED, stayed=Blend(FITTED.sources, np.ones(2)))
    for n in range(20):
        features, target = question(generator)
        one.learn(features, target, asker=f"u{n}")
        alone.learn(features, target, asker=f"u{n}")
    assert one.blend.weights.tolist() == alone.blend.weights.tolist() and one.cases == 20
    two.learn(np.full((3, 2), np.nan), 0, asker="u")
    assert two.cases == 0 and two.blend.weights.tolist() == [1.0, 1.0]


def test_weights_that_stayed_must_be_of_the_same_sources() -> None:
    with pytest.raises(ValueError, match="learned are weights of"):
        Leading(FITTED, stayed=Blend(("other", "noise"), np.ones(2)))
