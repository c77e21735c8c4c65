"""Recent sessions in memory, fed by the stream: a ring of the newest, and which of them hold an item.

A session is a user's likings without a pause of more than half an hour. It is there from its first liking on and grows with each. What a
restart finds in the histories is put in order of time; what differs then is said at `Sessions`.

    sessions = Sessions(index); sessions.take(users, items, ts_ms); mass = sessions.votes(prefix, num_items)
"""

from typing import Final

import numpy as np
from numba import njit

from encoders.session_kernels import session_votes
from serving.rows import RowIndex
from storage.arrays import F64s, I32s, I64s, U64s

PAUSE_MS: Final = 30 * 60_000
"""The field's session: analytics ends a visit after half an hour without an event."""
SESSIONS_MAX: Final = 131_072
"""About 45 MB when it is full. The part of a long tail's items that any session holds grows with it."""
ITEMS_MAX: Final = 16
"""Likings of a session; the next one begins another. Votes fade by e each two places, so that its ends would hardly hear each other."""
PREFIX_MAX: Final = 10
"""Newest likings of the user's session that ask: the eleventh would weigh e^(-10 / 1.5) = .001."""
SESSIONS_OF_ITEM_MAX: Final = 100
NEIGHBOURS_MAX: Final = 100
"""Newest sessions of an item that are looked at, sessions that vote. Chosen on validation sessions of a training file."""
_TABLE_ROOM: Final = 4
"""Places of the table of users for each session, at least."""


class Sessions:
    """One thread takes, any ask; who asks meanwhile may see half a batch, as with `Popularity`.

    Sessions are in the order of their first liking's arrival; after a start, of its event time. So a start makes a difference to what came
    out of order, to likings of several users in one millisecond, and to what the bounds of histories have forgotten: nothing else.
    """

    def __init__(self, index: RowIndex, *, sessions_max: int = SESSIONS_MAX, items_max: int = ITEMS_MAX, pause_ms: int = PAUSE_MS) -> None:
        self._index, self._pause_ms, self._items_max = index, pause_ms, items_max
        self._begins = np.arange(sessions_max, dtype=np.int64) * items_max
        self._scratch: list[F64s] = []
        self.clear()

    def __len__(self) -> int:
        return min(int(self._counters[0]), len(self._begins))

    @property
    def likings_max(self) -> int:
        """How many likings there is room for."""
        return len(self._begins) * self._items_max

    def clear(self) -> None:
        """Forget everything."""
        sessions, cells = len(self._begins), self.likings_max
        self._items: I32s = np.zeros(cells, dtype=np.int32)
        self._ends = self._begins.copy()
        self._owners: U64s = np.zeros(sessions, dtype=np.uint64)
        self._last_ms: I64s = np.zeros(sessions, dtype=np.int64)
        self._links: I32s = np.zeros((3, cells), dtype=np.int32)  # of a posting: its slot, the item's posting before and after it
        self._newest: I64s = np.full(1 << (_TABLE_ROOM * sessions - 1).bit_length(), -1, dtype=np.int64)
        self._counters: I64s = np.zeros(2, dtype=np.int64)  # sessions in all, used places of the table
        self._of_item: tuple[I32s, I64s] = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)  # newest posting, sessions holding it

    def take(self, users: U64s, items: U64s, ts_ms: I64s) -> None:
        """Take likings (N,) in the order they came; those of items that the catalogue does not know are passed over."""
        if len(users) == 0:
            return
        rows = self._index.rows(items)
        heads, frequency = self._of_item
        short = int(rows.max()) + 1 - len(heads)
        if short > 0:
            more = max(short, len(heads), 1024)
            heads = np.concatenate([heads, np.full(more, -1, dtype=np.int32)])
            frequency = np.concatenate([frequency, np.zeros(more, dtype=np.int64)])
            self._of_item = heads, frequency
        _take(
            users, rows, ts_ms, self._pause_ms, self._items_max,
            (self._items, self._begins, self._ends, self._owners, self._last_ms), self._links, heads, frequency,
            self._newest, self._counters,
        )  # fmt: skip

    def votes(self, prefix: I64s, num_items: int) -> F64s:
        """What past sessions say comes after these rows, oldest first, for the first rows of the catalogue: (num_items,)."""
        heads, frequency = self._of_item
        known = prefix[prefix < len(heads)]
        if len(known) == 0 or len(self) == 0:
            return np.zeros(num_items)
        try:
            overlap = self._scratch.pop()  # as many as there were threads at once
        except IndexError:
            overlap = np.zeros(len(self._begins))
        sessions = (self._items, self._begins, self._ends, int(self._counters[0]))
        postings = (heads, self._links[0], self._links[1])
        limits = (SESSIONS_OF_ITEM_MAX, NEIGHBOURS_MAX)
        votes = session_votes(known, np.array([0, len(known)]), sessions, postings, frequency, limits, overlap)[0]
        self._scratch.append(overlap)
        return votes[:num_items] if len(votes) >= num_items else np.pad(votes, (0, num_items - len(votes)))


@njit(cache=True, nogil=True)
def _take(users, rows, ts_ms, pause_ms, items_max, sessions, links, heads, frequency, newest, counters):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  # typed by numba
    items, begins, ends, owners, last_ms = sessions
    session_of, before, after = links
    for n in range(len(users)):
        row = rows[n]
        if row < 0:
            continue
        place = _place(users[n], owners, newest, counters[0])
        number = newest[place]
        slot = number % len(begins)
        open_ = number >= 0 and counters[0] - number <= len(begins) and owners[slot] == users[n]
        if not open_ or abs(ts_ms[n] - last_ms[slot]) > pause_ms or ends[slot] - begins[slot] == items_max:
            slot = counters[0] % len(begins)
            _forget(slot, items, begins, ends, session_of, before, after, heads, frequency)
            owners[slot] = users[n]
            counters[1] += number < 0
            newest[place] = counters[0]
            counters[0] += 1
            if 2 * counters[1] > len(newest):
                _rebuild(owners, newest, counters)
        posting = ends[slot]
        repeated = False
        for other in range(begins[slot], posting):
            repeated = repeated or items[other] == row
        items[posting], session_of[posting], before[posting], after[posting] = row, slot, -2, -1  # -2: held by an earlier place
        if not repeated:
            before[posting] = heads[row]
            if heads[row] >= 0:
                after[heads[row]] = posting
            heads[row] = posting
            frequency[row] += 1
        ends[slot], last_ms[slot] = posting + 1, ts_ms[n]


@njit(cache=True, nogil=True)
def _forget(slot, items, begins, ends, session_of, before, after, heads, frequency):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  # typed by numba
    """Take a slot's session out of its items' lists."""
    for posting in range(begins[slot], ends[slot]):
        if before[posting] == -2:
            continue
        row, older, newer = items[posting], before[posting], after[posting]
        if newer >= 0:
            before[newer] = older
        else:
            heads[row] = older
        if older >= 0:
            after[older] = newer
        frequency[row] -= 1
    ends[slot] = begins[slot]


@njit(cache=True, nogil=True)
def _place(user, owners, newest, count):  # type: ignore[no-untyped-def]  # typed by numba
    """Where the number of the user's newest session is in the table: an open one of sessions' numbers, -1 where none was ever put."""
    mask = np.uint64(len(newest) - 1)
    place = (user * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & mask
    while newest[place] >= 0:
        number = newest[place]
        if count - number <= len(owners) and owners[number % len(owners)] == user:
            return place
        place = (place + np.uint64(1)) & mask
    return place


@njit(cache=True, nogil=True)
def _rebuild(owners, newest, counters):  # type: ignore[no-untyped-def]  # typed by numba
    """Only what is still there, so that a search ends soon."""
    newest[:] = -1
    counters[1] = 0
    for number in range(max(0, counters[0] - len(owners)), counters[0]):
        place = _place(owners[number % len(owners)], owners, newest, counters[0])
        counters[1] += newest[place] < 0
        newest[place] = number
