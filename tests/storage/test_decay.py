"""Decay in integers: the table is exact, time moves by shifts, and reading back is what the exponent says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.decay import AMOUNT_MAX, SCALE_BITS, STEPS, TABLE, WEIGHT_MAX, at, decayed_amount, shifted

HALF_LIFE_MS = 86_400_000


def test_the_table_holds_the_largest_integers_below_the_exact_powers() -> None:
    assert len(TABLE) == STEPS and TABLE[0] == 1 << SCALE_BITS and TABLE[512] == 1_482_910
    for f, entry in enumerate(TABLE.tolist()):
        assert entry**STEPS <= 1 << (SCALE_BITS * STEPS + f) < (entry + 1) ** STEPS


@given(st.integers(1, AMOUNT_MAX), st.integers(0, 1 << 47), st.integers(1000, 10 * 365 * HALF_LIFE_MS))
def test_an_amount_is_itself_times_two_to_the_half_lives(amount: int, ts_ms: int, half_life_ms: int) -> None:
    weight, landmark = decayed_amount(amount, ts_ms, half_life_ms, TABLE)
    assert landmark == ts_ms // half_life_ms and weight < WEIGHT_MAX
    exact = amount * 2.0 ** (SCALE_BITS + ts_ms / half_life_ms - landmark)
    assert exact * (1 - 1e-3) <= weight <= exact * (1 + 1e-9), "a step is 1/1024 half-life: under 0.07 %"


def test_weights_are_shifted_down_to_nothing() -> None:
    assert [shifted(WEIGHT_MAX, by) for by in (0, 1, 61, 62, 63, 64, 10**12)] == [WEIGHT_MAX, WEIGHT_MAX // 2, 2, 1, 0, 0, 0]
    assert shifted(5, 1) == 2, "rounded down"


@given(st.integers(0, 1 << 45), st.integers(0, 30), st.integers(1000, HALF_LIFE_MS))
def test_reading_back_gives_the_amount_decayed_since(ts_ms: int, later: int, half_life_ms: int) -> None:
    weight, landmark = decayed_amount(600, ts_ms, half_life_ms, TABLE)
    (read,) = at(np.array([weight], dtype=np.uint64), landmark, ts_ms + later * half_life_ms, half_life_ms)
    assert read == pytest.approx(600 * 2.0**-later, rel=1e-3)


def test_reading_at_absurd_times_stays_a_number() -> None:
    weights = np.array([0, 1, WEIGHT_MAX], dtype=np.uint64)
    for as_of_ms in (0, 10**18):
        for landmark in (0, 10**9):
            read = at(weights, landmark, as_of_ms, 1000)
            assert np.isfinite(read).all() and read[0] == 0
