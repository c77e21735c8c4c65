"""The linear sources: a version's weights over what its users liked, by catalogue row.

The weights are as old as the version; the likings are read at each look-up.

    source = LinearSource(Linear.from_bytes(blob), index); mass = source.next_item(context.liked, num_items)
"""

from typing import Final

import numpy as np

from encoders.linear import BAG_ITEMS, DECAYS, Linear
from serving.kernels import follow
from serving.rows import RowIndex
from storage.arrays import F32s, F64s, I64s, U16s
from storage.catalogue import Catalogue


class LinearSource:
    """For any number of threads. `index` is of the catalogue that is answered from; an item it comes to know later is found then."""

    def __init__(self, weights: Linear, index: RowIndex) -> None:
        self.weights, self._index = weights, index
        self._placed: tuple[int, I64s, I64s] = -1, _NONE, _NONE  # of so many items: rows of the ids (-1: unknown), and places of the rows

    def __bool__(self) -> bool:
        """Whether it has anything to say."""
        return len(self.weights) > 0

    def next_item(self, liked: I64s, num_items: int) -> F64s:
        """Scores after the last of these likings, newest first, of the first rows of the catalogue: (num_items,); what is below 0 is 0.

        As in the bench, where log-shares are of the positive scores. An item without weights has 0, and all have without a liking.
        """
        return self._mass(liked[:BAG_ITEMS], num_items, _DECAYS, self.weights.followers, self.weights.weights)

    def ease(self, liked: I64s, num_items: int) -> F64s:
        """The same of EASE, which asks what belongs to all of these distinct likings and not what comes next."""
        return self._mass(liked, num_items, _ALIKE, self.weights.ease_followers[None], self.weights.ease_weights[None])

    def _mass(self, liked: I64s, num_items: int, decays: F64s, followers: U16s, weights: F32s) -> F64s:
        if not self or len(liked) == 0:
            return np.zeros(num_items)
        rows, places = self._places(num_items)
        mass: F64s = follow(liked, places, rows, decays, followers, weights, num_items)
        return mass

    def _places(self, num_items: int) -> tuple[I64s, I64s]:
        known, rows, places = self._placed
        if known < num_items and (known < 0 or (rows < 0).any()):
            rows = self._index.rows(self.weights.ids)
            places = np.full(int(rows.max()) + 1, -1, dtype=np.int64)
            places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
            self._placed = num_items, rows, places
        return rows, places


_NONE: Final = np.empty(0, dtype=np.int64)
_DECAYS: Final = np.array(DECAYS)
_ALIKE: Final = np.ones(1)
NOTHING: Final = LinearSource(Linear.none(), RowIndex(Catalogue()))
"""Of a version without such weights, and of no version."""
