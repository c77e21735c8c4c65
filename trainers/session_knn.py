"""Session-KNN: past sessions that share items with the one at hand vote for theirs, the newer and the nearer to the match the more.

    past = SessionKnn(num_items); past.learn(session); past.scores(prefixes)

`encoders/session_kernels.py` has the formula; the bounds here are the protocol's: an item's 10,000 newest sessions, the 1,000 most alike.
The index is a chain of postings an item, newest first, so that a session is learned in the time of its length; sessions are all kept:
8 bytes a click and 24 a distinct item of a session. `serving/sessions.py` has the live form, which forgets.

Source: the evaluation protocol, section 3.
"""

from typing import Final

import numpy as np

from encoders.base import F64s, I64s, Ragged
from encoders.session_kernels import session_votes

SESSIONS_OF_ITEM_MAX: Final = 10_000
NEIGHBOUR_SESSIONS_MAX: Final = 1_000


class SessionKnn:
    """Sessions 0..S - 1 in the order they were learned. The bounds: newest sessions looked at of an item, sessions that vote."""

    def __init__(
        self, num_items: int, *, sessions_of_item_max: int = SESSIONS_OF_ITEM_MAX, neighbours_max: int = NEIGHBOUR_SESSIONS_MAX
    ) -> None:
        self._limits = (sessions_of_item_max, neighbours_max)
        self._items, self._starts = np.empty(64, dtype=np.int64), np.zeros(64, dtype=np.int64)
        self._session_of, self._before = np.empty(64, dtype=np.int64), np.empty(64, dtype=np.int64)
        self._heads = np.full(num_items, -1, dtype=np.int64)
        self._frequency = np.zeros(num_items, dtype=np.int64)
        self._sessions, self._postings = 0, 0

    def learn(self, session: I64s) -> None:
        """Add the newest session, (n,) items in click order; an empty one is none."""
        if not len(session):
            return
        begin = int(self._starts[self._sessions])
        self._items = _grown(self._items, begin + len(session))
        self._starts = _grown(self._starts, self._sessions + 2)
        self._items[begin : begin + len(session)] = session
        distinct = np.array(list(dict.fromkeys(session.tolist())), dtype=np.int64)
        after = self._postings + len(distinct)
        self._session_of, self._before = _grown(self._session_of, after), _grown(self._before, after)
        self._session_of[self._postings : after] = self._sessions
        self._before[self._postings : after] = self._heads[distinct]
        self._heads[distinct] = np.arange(self._postings, after)
        self._frequency[distinct] += 1
        self._sessions, self._postings = self._sessions + 1, after
        self._starts[self._sessions] = begin + len(session)

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I) votes for what comes after each prefix; zeros for an empty one."""
        votes: F64s = session_votes(
            inputs.values,
            inputs.offsets,
            (self._items, self._starts, self._starts[1:], self._sessions),
            (self._heads, self._session_of, self._before),
            self._frequency,
            self._limits,
            np.zeros(max(1, self._sessions)),
        )
        return votes


def _grown(array: I64s, size: int) -> I64s:
    """The array, or one twice as long or more with the same beginning."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
