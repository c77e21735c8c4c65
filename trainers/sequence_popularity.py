"""Popularity over whole sequences: all clicks, those of the newest lines, those at the end of each user's sequence.

    counts = Clicks(num_items); counts.learn(sequence); counts.scores(inputs)

Items are dense rows 0..num_items - 1. Each sequence is learned once, as a stream would bring it; scores do not look at the inputs.
Source: the evaluation protocol, sections 2 (`RecentTails`) and 3 (`RecentLines`). Constants are the protocol's.
"""

from collections import deque
from typing import Final

import numpy as np

from encoders.base import F64s, I64s, Ragged

TAIL_ITEMS: Final = 5
NEWEST_SHARE: Final = 10
"""One line in so many is recent."""


class Clicks:
    """score(i) = n_i, how often the item was clicked."""

    def __init__(self, num_items: int) -> None:
        self.counts = np.zeros(num_items, dtype=np.int64)

    def learn(self, sequence: I64s) -> None:
        """Count every item of the sequence (n,), repeats too."""
        np.add.at(self.counts, sequence, 1)

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I), all rows alike and read-only."""
        return _for_all(self.counts, inputs)


class RecentTails:
    """score(i) = count over the last 5 items of each sequence: for files without a clock, where a user's end is what is recent."""

    def __init__(self, num_items: int) -> None:
        self._counts = np.zeros(num_items, dtype=np.int64)

    def learn(self, sequence: I64s) -> None:
        """Count the sequence's last 5 items."""
        np.add.at(self._counts, sequence[-TAIL_ITEMS:], 1)

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I), all rows alike and read-only."""
        return _for_all(self._counts, inputs)


class RecentLines:
    """score(i) = clicks in the newest S // 10 of S lines; the window slides as lines come, and only its lines are kept."""

    def __init__(self, num_items: int) -> None:
        self._counts = np.zeros(num_items, dtype=np.int64)
        self._window: deque[I64s] = deque()
        self._lines = 0

    def learn(self, sequence: I64s) -> None:
        """Count the newest line; the oldest leave when the window would be longer than a tenth."""
        self._lines += 1
        self._window.append(sequence.copy())
        np.add.at(self._counts, sequence, 1)
        while len(self._window) > self._lines // NEWEST_SHARE:
            np.subtract.at(self._counts, self._window.popleft(), 1)

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I), all rows alike and read-only."""
        return _for_all(self._counts, inputs)


def _for_all(counts: I64s, inputs: Ragged) -> F64s:
    return np.broadcast_to(counts.astype(np.float64), (len(inputs), len(counts)))
