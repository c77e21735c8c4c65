"""Forward decay in integers: the same bits on every machine, and time passing rewrites nothing.

An amount at time t weighs `amount * 2^(t / half_life)`. With t = e + f/1024 half-lives that is `amount * TABLE[f] * 2^e`,
and everything is held relative to a landmark, the whole half-life of the newest entry, so moving the landmark is a right
shift. TABLE is computed with integer square roots only, because `exp` differs in the last bit between libraries.

Source: Cormode et al., "Forward decay", ICDE 2009, for the idea; the integer form is ours.
"""

from math import isqrt
from typing import Final

import numpy as np
from numba import njit

from storage.arrays import F64s, I64s, U64s

STEPS: Final = 1024
SCALE_BITS: Final = 20
AMOUNT_MAX: Final = 1 << 20
"""Largest amount of one entry: 2^20 * 2^21 leaves 2^21 of them before the sum saturates at 2^62."""
WEIGHT_MAX: Final = 1 << 62
AGE_MAX: Final = 960.0
"""In half-lives, either way, when weights are read: WEIGHT_MAX at this age is still a finite float."""


def _table() -> I64s:
    """floor(2^(20 + f/1024)) for f = 0..1023: ten nested integer square roots are an exact 1024th root."""
    entries = []
    for f in range(STEPS):
        value = 1 << (SCALE_BITS * STEPS + f)
        for _ in range(10):
            value = isqrt(value)
        entries.append(value)
    return np.array(entries, dtype=np.int64)


TABLE: Final = _table()


@njit(cache=True, nogil=True, inline="always")
def decayed_amount(amount: int, ts_ms: int, half_life_ms: int, table: I64s) -> tuple[int, int]:
    """(weight, landmark) of one entry: `amount * TABLE[f]` at whole half-life e."""
    landmark = ts_ms // half_life_ms
    fraction = ((ts_ms - landmark * half_life_ms) * STEPS) // half_life_ms
    return amount * table[fraction], landmark


@njit(cache=True, nogil=True, inline="always")
def shifted(weight: int, by: int) -> int:
    """weight * 2^-by, rounded down; 0 once nothing is left."""
    return weight >> by if by < 63 else 0


def at(weights: U64s, landmark: int, as_of_ms: int, half_life_ms: int) -> F64s:
    """Stored integer weights as amounts decayed to `as_of_ms`: 1.0 is one unit of amount at that moment."""
    age = as_of_ms / half_life_ms - landmark
    amounts: F64s = np.ldexp(weights.astype(np.float64), -SCALE_BITS) * 2.0 ** -max(min(age, AGE_MAX), -AGE_MAX)
    return amounts
