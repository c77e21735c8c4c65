"""Linear next-item model: ridge regression from two decayed bags of what a user had to what came next, in closed form.

    ridge = Ridge.fit(sequences, num_items); ridge.scores(inputs)

x = two bags of the last 60 items, the item p places back weighing .5^p in one and .9^p in the other; W = (A'A + 100 I)^-1 A'Y over all
training positions, Y the next item; score = x W. Memory is 8 I^2 floats, time goes by I^3: `fits` says whether a catalogue is small enough.

Source: the evaluation protocol, section 2. Constants are the protocol's.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import hstack

from encoders.base import F64s, Ragged
from trainers.sequence_counts import recency
from trainers.sequence_kernels import bag_moments

BAG_ITEMS: Final = 60
DECAYS: Final = (0.5, 0.9)
PENALTY: Final = 100.0
RIDGE_ITEMS_MAX: Final = 4_096  # 0.5 GiB for A'A, and minutes of one core to solve


def fits(num_items: int) -> bool:
    """Whether a catalogue of so many items is solved in minutes and less than 2 GiB."""
    return num_items <= RIDGE_ITEMS_MAX


@dataclass(frozen=True)
class Ridge:
    """Weights (2 I, I)."""

    weights: F64s

    @classmethod
    def fit(cls, sequences: Ragged, num_items: int) -> "Ridge":
        """Solve for all positions of all sequences that have a next item."""
        gram, cross = bag_moments(sequences.values, sequences.offsets, num_items, np.array(DECAYS), BAG_ITEMS)
        gram[np.diag_indices(len(gram))] += PENALTY
        factor = cho_factor(
            gram.T, lower=True, overwrite_a=True, check_finite=False
        )  # the transpose is the same, in the order LAPACK wants
        return cls(np.ascontiguousarray(cho_solve(factor, cross, check_finite=False)))

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I); zeros for an empty input."""
        bags = [recency(inputs, decay, BAG_ITEMS, self.weights.shape[1]) for decay in DECAYS]
        scores: F64s = hstack(bags, format="csr") @ self.weights
        return scores
