"""The inner loops of ranking and blending, compiled: one pass over the scores where numpy takes six.

ranks = mid_ranks(scores, targets)      # see `trainers/metrics.py`
"""

import numpy as np
from numba import njit

from encoders.base import F32s, F64s, I64s
from storage.arrays import I32s


@njit(cache=True, nogil=True)
def mid_ranks(scores: F32s | F64s, targets: I64s) -> I64s:
    """1 + how many score above the target + half of how many others equal it; NaN is minus infinity: (B,)."""
    ranks = np.empty(len(targets), dtype=np.int64)
    for row in range(len(targets)):
        above, equal = _above_and_equal(scores[row], scores[row, targets[row]])
        ranks[row] = 1 + above + (equal - 1) // 2
    return ranks


@njit(cache=True, nogil=True)
def mid_ranks_among(scores: F64s, targets: I64s, left_out: I64s, offsets: I64s, missed: int) -> I64s:
    """The same among the columns that are not left out: row b's are left_out[offsets[b]:offsets[b + 1]], each once; (B,).

    A target that is left out itself has the rank `missed`.
    """
    ranks = np.empty(len(targets), dtype=np.int64)
    for row in range(len(targets)):
        absent = left_out[offsets[row] : offsets[row + 1]]
        asked = scores[row, targets[row]]
        above, equal = _above_and_equal(scores[row], asked)
        above_absent, equal_absent = _above_and_equal(scores[row][absent], asked)
        ranks[row] = 1 + above - above_absent + (equal - equal_absent - 1) // 2
        for column in absent:
            if column == targets[row]:
                ranks[row] = missed
    return ranks


@njit(cache=True, nogil=True)
def _above_and_equal(scores: F32s | F64s, asked: float) -> tuple[int, int]:
    """How many of the scores are above the one asked for, and how many equal it."""
    target = -np.inf if np.isnan(asked) else asked
    above, equal = 0, 0
    for column in range(len(scores)):
        score = scores[column]
        if score > target:
            above += 1
        elif score == target or (np.isnan(score) and target == -np.inf):
            equal += 1
    return above, equal


@njit(cache=True, nogil=True)
def weighted_rows(counts: I32s, rows: I64s, weights: F64s) -> F64s:
    """The sum of counts[rows[h]] * weights[h], row after row: (I,)."""
    total = np.zeros(counts.shape[1])
    for h in range(len(rows)):
        for column in range(counts.shape[1]):
            total[column] += counts[rows[h], column] * weights[h]
    return total


@njit(cache=True, nogil=True)
def add_log_shares(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    total: F64s, scores: F64s, weight: float, epsilon: float, left_out: I64s, offsets: I64s
) -> None:
    """total (B, I) += weight * log(1 + share * I / epsilon), share = score over the sum of the row's positive ones that are not left out.

    That is weight * (log(epsilon / I + share) - log(epsilon / I)): the same order as log-shares, and free where a source says nothing.
    """
    items = scores.shape[1]
    candidate = np.ones(items, dtype=np.bool_)
    for row in range(len(scores)):
        mass = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            candidate[left_out[at]] = False
        for column in range(items):
            if candidate[column] and 0.0 < scores[row, column] < np.inf:
                mass += scores[row, column]
        for at in range(offsets[row], offsets[row + 1]):
            candidate[left_out[at]] = True
        if mass > 0.0:
            scale = items / (epsilon * mass)
            for column in range(items):
                if 0.0 < scores[row, column] < np.inf:
                    total[row, column] += weight * np.log1p(scores[row, column] * scale)
