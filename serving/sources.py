"""Where candidates come from and what each source makes of them: one look-up's `Context`, and one function per source.

A *mass* is a number >= 0 per catalogue row, (I,): how much a source has to say for an item, on any scale, 0 = nothing.
`serving/features.py` turns masses into log-scores that can be blended.

    context = Reader(...).context(user_id, now_ms=now_ms); mass = neighbours(context)
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit

from serving.contents import Contents
from serving.kernels import gathered, spread
from serving.linear import LinearSource
from serving.once import once
from serving.popularity import Heat, Popularity
from serving.rows import RowIndex
from serving.sessions import PAUSE_MS, PREFIX_MAX, Sessions
from storage.arrays import Bools, F64s, I64s, U64s
from storage.catalogue import Catalogue
from storage.histories import Histories, History
from storage.ids import USER, hash_id
from storage.neighbours import CO_ENGAGED, Neighbours

SOURCES: Final = ("neural", "neighbours", "similar", "popular", "recent", "linear", "ease", "sessions", "content")
"""The columns of the features, in order; a blend names those it weighs."""
LINEAR: Final = slice(SOURCES.index("linear"), SOURCES.index("ease") + 1)
"""The columns that the linear weights of a version make."""
BROUGHT: Final = ("neural", *SOURCES[LINEAR])
"""What a version is for."""
COUNTED: Final = slice(1, SOURCES.index("content"))
"""The columns that know nothing of an item nobody has had."""
RECENT_MAX: Final = 10
SMOOTHING: Final = 10.0


@dataclass(frozen=True)
class Links:
    """The neighbour lists of some items, end to end: entry e says `row` follows list `place` with `weight`. All (E,)."""

    rows: I64s
    weights: F64s
    places: I64s


@dataclass(frozen=True)
class Context:
    """What one look-up knows of its user, read once, in catalogue rows.

    `recent`: the last distinct items liked, newest first; `positive` (256,): which action codes are a liking; `past`: the sessions of all;
    `contents`: of the newest items.
    What few blends weigh is made of it when it is first asked for.
    """

    now_ms: int
    history: History
    recent: I64s
    seen: I64s
    links: Links
    heat: Heat
    live: Bools
    past: Sessions
    contents: Contents
    index: RowIndex
    positive: Bools

    @property
    def cold(self) -> bool:
        """Whether nothing is known of the user."""
        return len(self.history) == 0

    @once
    def liked(self) -> I64s:
        """The likings that are known, newest first."""
        rows, _ = self._likings
        return rows[rows >= 0][::-1]

    @once
    def session(self) -> I64s:
        """The likings since the last long pause, oldest first."""
        return _session(*self._likings)

    @once
    def votes(self) -> F64s:
        """What past sessions say, as when it was first asked: (I,)."""
        return self.past.votes(self.session, len(self.live))

    @once
    def _likings(self) -> tuple[I64s, I64s]:
        """Rows, -1 of items beyond `live`, and times of the likings, oldest first: both (L,)."""
        entries = np.flatnonzero(self.positive[self.history.actions])
        rows = self.index.rows(self.history.items[entries])
        rows[rows >= len(self.live)] = -1
        return rows, self.history.ts_ms[entries]


@dataclass(frozen=True)
class Reader:
    """Reads contexts. `partition_of` routes a user id; `positive` (256,) says which action codes are a liking."""

    catalogue: Catalogue
    index: RowIndex
    histories: Histories
    neighbours: Neighbours
    popularity: Popularity
    sessions: Sessions
    contents: Contents
    partition_of: Callable[[str], int]
    positive: Bools

    def context(self, user_id: str, *, now_ms: int) -> Context:
        """Everything about this user as of now; every later event is the next look-up's.

        The catalogue may grow meanwhile: of an item that came after `live` was read nothing is said.
        """
        user, partition = hash_id(user_id, USER), self.partition_of(user_id)
        history, had = self.histories.both(user, partition)
        live = self.live()
        items = len(live)
        recent, seen = self._recent(history, items), self.index.known(had, below=items)
        links = self.links(self.catalogue.ids[recent], now_ms=now_ms)
        return Context(
            now_ms, history, recent=recent, seen=seen, links=links, heat=self.popularity.snapshot(items), live=live, past=self.sessions,
            contents=self.contents, index=self.index, positive=self.positive,
        )  # fmt: skip

    def live(self) -> Bools:
        """Which catalogue rows can be recommended: a copy, (I,)."""
        return ~self.catalogue.deleted

    def links(self, nodes: U64s, *, now_ms: int) -> Links:
        """What the co-engagement lists of these items hold, items of the catalogue only."""
        if len(nodes) == 0:
            return Links(_NONE, np.empty(0), _NONE)
        ids, weights, places = self.neighbours.links(CO_ENGAGED, nodes, as_of_ms=now_ms)
        rows = self.index.rows(ids)
        if rows.min(initial=0) < 0:  # seldom: an item is in the catalogue from its first event on
            known = rows >= 0
            rows, weights, places = rows[known], weights[known], places[known]
        return Links(rows, weights, places)

    def _recent(self, history: History, items: int) -> I64s:
        newest = _newest(history.items, self.positive[history.actions], 4 * RECENT_MAX, RECENT_MAX)
        return self.index.known(newest, below=items)


def _session(liked: I64s, ts_ms: I64s) -> I64s:
    """The last rows without a long pause between them, oldest first, however long ago: who comes back goes on from there."""
    liked, ts_ms = liked[-PREFIX_MAX:], ts_ms[-PREFIX_MAX:]
    pauses = np.flatnonzero(ts_ms[1:] - ts_ms[:-1] > PAUSE_MS)
    session = liked[pauses[-1] + 1 :] if len(pauses) else liked
    return session[session >= 0]


_NONE: Final = np.empty(0, dtype=np.int64)


@njit(cache=True, nogil=True)
def _newest(items: U64s, liked: Bools, entries_max: int, items_max: int) -> U64s:
    """Distinct items of the newest liked entries (L,), newest first; no entry counts beyond the first `entries_max`: (up to items_max,)."""
    found = np.empty(items_max, dtype=np.uint64)
    count = entries = 0
    for entry in range(len(items) - 1, -1, -1):
        if entries == entries_max or count == items_max:
            break
        if not liked[entry]:
            continue
        entries += 1
        found[count] = items[entry]
        at = 0
        while found[at] != items[entry]:
            at += 1
        count += at == count
    return found[:count]


def neighbours(context: Context) -> F64s:
    """Sequential rules from the live lists: sum_p .8^p C[j_p, q] / sqrt((n_j + 10)(n_q + 10)), p = 0 the newest item.

    C[j, q] adds 1 / distance when q follows j and half of it when j follows q. Source: the prequential protocol's
    SeqRules. We differ: C decays with time, looks back as far as ingest's window does, and counts an action's weight.
    """
    return _spread(context, fade=0.8, rooted=False)


def similar(context: Context) -> F64s:
    """The same lists read as likeness: sum_p .9^p (C[j_p, q] / sqrt((n_j + 10)(n_q + 10)))^(1/2).

    Under the root an item that several of the last ten lead to counts more than one that a single list is full of: what
    Item-KNN gets from counting a pair once however far apart. Ours; it adds to the rules where it was measured.
    """
    return _spread(context, fade=0.9, rooted=True)


def popular(context: Context) -> F64s:
    """How many likings an item ever had."""
    return context.heat.positives


def recent(context: Context) -> F64s:
    """Likings with their weights, halved each half-life, relative to the hottest item."""
    hottest = context.heat.heat.max(initial=-np.inf)
    return np.exp2(context.heat.heat - hottest) if np.isfinite(hottest) else np.zeros(len(context.live))


def linear(context: Context, weights: LinearSource) -> F64s:
    """The version's linear next-item model over the last 60 likings; what it scores below 0 has no mass.

    Source: the evaluation protocol, section 2. We differ: of each item the heaviest weights alone.
    """
    return weights.next_item(context.liked, len(context.live))


def ease(context: Context, weights: LinearSource) -> F64s:
    """The version's EASE model over all likings that the history still holds, each once; what it scores below 0 has no mass.

    Source: Steck (WWW 2019). We differ: of each item the heaviest weights alone.
    """
    return weights.ease(np.unique(context.liked), len(context.live))


def sessions(context: Context) -> F64s:
    """Votes of recent sessions that hold items of the user's own last one, for what came near them.

    Source: the evaluation protocol, section 3. We differ: sessions are the newest in memory, and fewer of them are looked at.
    """
    return context.votes


def content(context: Context) -> F64s:
    """Likeness of the newest items' words to those of the last ten likings: what can be said of an item that nobody has had yet."""
    return context.contents.near(context.recent, len(context.live))


def counting(context: Context, weights: LinearSource, rows: I64s, asked: Collection[str] = SOURCES) -> F64s:
    """The masses of every source but the neural one at these rows, in the order of `SOURCES`: (S - 1, C); 0 of those not asked."""
    nothing = np.zeros(len(context.live))
    masses = (
        neighbours(context) if "neighbours" in asked else nothing,
        similar(context) if "similar" in asked else nothing,
        popular(context) if "popular" in asked else nothing,
        recent(context) if "recent" in asked else nothing,
        linear(context, weights) if "linear" in asked else nothing,
        ease(context, weights) if "ease" in asked else nothing,
        sessions(context) if "sessions" in asked else nothing,
        content(context) if "content" in asked else nothing,
    )
    table: F64s = gathered(masses, rows)
    return table


def _spread(context: Context, *, fade: float, rooted: bool) -> F64s:
    """sum_p fade^p weight[j_p, q] / ((n_j + 10)(n_q + 10))^(1/2) over the lists of the last items, or the roots of both: (I,)."""
    links, likings = context.links, context.heat.events + SMOOTHING
    per_list = fade ** np.arange(len(context.recent)) * likings[context.recent] ** (-0.25 if rooted else -0.5)
    masses: F64s = spread(links.rows, links.weights, links.places, per_list, likings, rooted)
    return masses
