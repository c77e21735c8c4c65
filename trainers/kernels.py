"""The inner loop of ranking, compiled: one pass over the scores where numpy takes six.

ranks = mid_ranks(scores, targets)      # see `trainers/metrics.py`
"""

import numpy as np
from numba import njit

from encoders.base import F32s, F64s, I64s


@njit(cache=True, nogil=True)
def mid_ranks(scores: F32s | F64s, targets: I64s) -> I64s:
    """1 + how many score above the target + half of how many others equal it; NaN is minus infinity: (B,)."""
    ranks = np.empty(len(targets), dtype=np.int64)
    for row in range(len(targets)):
        asked = scores[row, targets[row]]
        target = -np.inf if np.isnan(asked) else asked
        above, equal = 0, -1
        for column in range(scores.shape[1]):
            score = scores[row, column]
            if score > target:
                above += 1
            elif score == target or (np.isnan(score) and target == -np.inf):
                equal += 1
        ranks[row] = 1 + above + equal // 2
    return ranks
