"""Linear next-item model: ridge regression from two decayed bags of what a user had to what came next, in closed form.

    ridge = Ridge.fit(sequences, num_items); ridge.scores(inputs)
    linear = fitted(events, ids, seconds_max=6.0)     # what a version carries, EASE's weights with it

x = two bags of the last 60 items, the item p places back weighing .5^p in one and .9^p in the other; W = (A'A + 100 I)^-1 A'Y over all
training positions, Y the next item; score = x W. Memory is 8 I^2 floats, time goes by I^3: `fits` says whether a catalogue is small enough.

Source: the evaluation protocol, section 2. Constants are the protocol's.

A version carries the heaviest weights alone, of the most liked items, as many as can be solved in the time given: the long tail of a larger
catalogue is left to the other sources, and a training stays a training.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import hstack

from encoders.base import F32s, F64s, Ragged, U16s, U64s
from encoders.linear import BAG_ITEMS, DECAYS, EASE_FOLLOWERS_MAX, FOLLOWERS_MAX, ITEMS_MAX, Linear
from trainers.ease import Ease
from trainers.samples import Placed, by_user
from trainers.sequence_counts import recency
from trainers.sequence_kernels import bag_moments

PENALTY: Final = 100.0
RIDGE_ITEMS_MAX: Final = ITEMS_MAX  # 0.5 GiB for A'A, half a minute of one core to solve
CUBE_S: Final = 4.5e-10
"""Seconds of one core to solve, by the cube of the items: 2.1 s for 1,682, 16 s for 3,416. EASE takes a fifth of that besides."""
LIKINGS_MAX: Final = 1 << 19
"""Newest likings that a version's weights are fitted to: their moments take 2.5 s."""


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


def fitted(
    events: Placed, ids: U64s, *, seconds_max: float, followers_max: int = FOLLOWERS_MAX, ease_followers_max: int = EASE_FOLLOWERS_MAX
) -> Linear:
    """The weights for a version, of the items (I,) that the events' rows point at; the equations are solved within about `seconds_max`.

    In order: 1. of the newest likings, 2. those of the most liked items (ties by row) as far as the time goes, 3. by user in order of event
    time, are solved for; 4. of the solutions, by item and bag, the weights of the largest size are kept, heaviest first.
    """
    events = events.take(slice(-LIKINGS_MAX, None))
    likings = np.bincount(events.rows, minlength=len(ids))
    items_max = min(RIDGE_ITEMS_MAX, int((seconds_max / CUBE_S) ** (1 / 3)), int((likings > 0).sum()))
    chosen = np.sort(np.argsort(-likings, kind="stable")[:items_max])
    if items_max == 0:
        return Linear.none()
    place = np.full(len(ids), -1, dtype=np.int64)
    place[chosen] = np.arange(items_max)
    known = events.take(np.flatnonzero(place[events.rows] >= 0))
    order, offsets = by_user(known.columns)
    sequences = Ragged(place[known.rows[order]], offsets)
    next_item = heaviest(Ridge.fit(sequences, items_max).weights.reshape(len(DECAYS), items_max, items_max), followers_max)
    return Linear(ids[chosen], *next_item, *heaviest(Ease.fit(sequences, items_max).weights, ease_followers_max))


def heaviest(weights: F64s, followers_max: int) -> tuple[U16s, F32s]:
    """Of weights (..., I, I) the `followers_max` of the largest size in each row, ties by place, and where they stand: both (..., I, K)."""
    followers = np.argsort(-np.abs(weights), axis=-1, kind="stable")[..., :followers_max]
    return followers.astype(np.uint16), np.take_along_axis(weights, followers, axis=-1).astype(np.float32)
