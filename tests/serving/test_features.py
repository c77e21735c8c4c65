"""Columns are log-probabilities whatever masses come in, and explanations sum up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.features import EPSILON, lifts, log_shares, log_softmax
from storage.arrays import F64s

ANY = arrays(np.float64, st.integers(1, 20), elements=st.floats(allow_nan=True, allow_infinity=True))


@given(ANY)
def test_shares_are_finite_and_sum_up_whatever_comes_in(mass: F64s) -> None:
    columns = log_shares(mass)
    assert np.isfinite(columns).all() and np.exp(columns).sum() in (pytest.approx(1 + EPSILON), pytest.approx(EPSILON))


LOGITS = arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e4, 1e4) | st.sampled_from([np.nan, np.inf, -np.inf]))


@given(LOGITS)
def test_a_softmax_is_finite_and_sums_to_one_whatever_comes_in(logits: F64s) -> None:
    column = log_softmax(logits)
    assert np.isfinite(column).all() and np.exp(column).sum() == pytest.approx(1.0)


def test_unknown_and_negative_masses_count_as_nothing() -> None:
    assert np.allclose(np.exp(log_shares(np.array([3.0, np.nan, -1.0, 1.0, np.inf]))), np.array([0.75, 0, 0, 0.25, 0]) + EPSILON / 5)


def test_a_source_without_mass_says_the_same_of_everyone() -> None:
    assert np.ptp(log_shares(np.zeros(4))) == 0 and np.ptp(log_softmax(np.full(4, -np.inf))) == 0
    assert log_shares(np.zeros((2, 0))).shape == (2, 0) and log_softmax(np.zeros(0)).shape == (0,)


def test_an_item_without_a_vector_is_as_far_as_the_farthest() -> None:
    column = log_softmax(np.array([2.0, -np.inf, 1.0]))
    assert column[1] == column[2] < column[0]


def test_a_lift_is_what_a_source_adds_above_the_least() -> None:
    features = np.array([[0.0, 0.0], [-1.0, -6.0], [-3.0, -6.0]])
    assert np.allclose(lifts(features, np.array([1.0, 0.5]), features), [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    assert np.allclose(lifts(features, np.array([1.0, -0.5]), features)[0], [1.0, 0.0])
    assert lifts(features, np.array([1.0, 1.0]), features[:0]).shape == (0, 2)
