"""What followers are told of a commit's likings, so that they know of recent sessions: all of a few, of many an even part of the users'.

    told = likings(columns, kept)      # (N, 3): user, item, time in ms

Who has a part of the users has whole sessions of them, from commit to commit: a half of them is within every larger part.
"""

from typing import Final

import numpy as np

from storage.arrays import Bools, U64s
from stream.reducers import Columns

LIKINGS_MAX: Final = 512
"""Of a commit: 12 KB of its note. Commits are this large only where tens of thousands of events come a second: what is left then
fills the 131,072 sessions that are kept within seconds all the same."""
_BITS: Final = 64


def likings(columns: Columns, kept: Bools) -> U64s:
    """Users, items and times of the rows kept (N,) that are likings, in their order: (at most LIKINGS_MAX, 3)."""
    liked = (kept & (columns.weight > 0)).nonzero()[0]
    halvings = ((len(liked) - 1) // LIKINGS_MAX).bit_length() if len(liked) else 0
    if halvings:
        liked = liked[columns.users[liked] >> np.uint64(_BITS - halvings) == 0][-LIKINGS_MAX:]  # ids are hashes: high bits are even
    return np.column_stack([columns.users[liked], columns.items[liked], columns.stamps[liked] >> np.uint64(16)])
