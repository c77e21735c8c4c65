"""Where candidates come from and what each source makes of them: one look-up's `Context`, and one function per source.

A *mass* is a number >= 0 per catalogue row, (I,): how much a source has to say for an item, on any scale, 0 = nothing.
`serving/features.py` turns masses into log-scores that can be blended.

    context = Reader(...).context(user_id, now_ms=now_ms); mass = neighbours(context)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from serving.kernels import gathered, spread
from serving.popularity import Heat, Popularity
from serving.rows import RowIndex
from storage.arrays import Bools, F64s, I64s, U64s
from storage.catalogue import Catalogue
from storage.histories import Histories, History
from storage.ids import USER, hash_id
from storage.neighbours import CO_ENGAGED, Neighbours

SOURCES: Final = ("neural", "neighbours", "similar", "popular", "recent")
"""The columns of the features, in order; a blend names those it weighs."""
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
    """What one look-up knows of its user, read once. `recent` are catalogue rows of the last liked items, newest first."""

    now_ms: int
    history: History
    recent: I64s
    seen: I64s
    links: Links
    heat: Heat
    live: Bools

    @property
    def cold(self) -> bool:
        """Whether nothing is known of the user."""
        return len(self.history) == 0


@dataclass(frozen=True)
class Reader:
    """Reads contexts. `partition_of` routes a user id; `positive` (256,) says which action codes are a liking."""

    catalogue: Catalogue
    index: RowIndex
    histories: Histories
    neighbours: Neighbours
    popularity: Popularity
    partition_of: Callable[[str], int]
    positive: Bools

    def context(self, user_id: str, *, now_ms: int) -> Context:
        """Everything about this user as of now; every later event is the next look-up's."""
        user, partition = hash_id(user_id, USER), self.partition_of(user_id)
        history, had = self.histories.both(user, partition)
        seen = self.index.rows(had)
        recent = self._recent(history)
        live = self.live()
        links = self.links(self.catalogue.ids[recent], now_ms=now_ms)
        return Context(now_ms, history, recent, seen[seen >= 0], links, self.popularity.snapshot(len(live)), live)

    def live(self) -> Bools:
        """Which catalogue rows can be recommended: a copy, (I,)."""
        return ~self.catalogue.deleted

    def links(self, nodes: U64s, *, now_ms: int) -> Links:
        """What the co-engagement lists of these items hold, items of the catalogue only."""
        if len(nodes) == 0:
            return Links(_NONE, np.empty(0), _NONE)
        ids, weights, places = self.neighbours.links(CO_ENGAGED, nodes, as_of_ms=now_ms)
        rows = self.index.rows(ids)
        known = rows >= 0
        return Links(rows[known], weights[known], places[known])

    def _recent(self, history: History) -> I64s:
        items = history.items[self.positive[history.actions]][::-1]
        newest = list(dict.fromkeys(items[: 4 * RECENT_MAX].tolist()))[:RECENT_MAX]
        rows = self.index.rows(np.array(newest, dtype=np.uint64))
        return rows[rows >= 0]


_NONE: Final = np.empty(0, dtype=np.int64)


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


def counting(context: Context, rows: I64s) -> F64s:
    """The masses of every source but the neural one at these rows, in the order of `SOURCES`: (S - 1, C)."""
    table: F64s = gathered((neighbours(context), similar(context), popular(context), recent(context)), rows)
    return table


def _spread(context: Context, *, fade: float, rooted: bool) -> F64s:
    """sum_p fade^p weight[j_p, q] / ((n_j + 10)(n_q + 10))^(1/2) over the lists of the last items, or the roots of both: (I,)."""
    links, likings = context.links, context.heat.events + SMOOTHING
    per_list = fade ** np.arange(len(context.recent)) * likings[context.recent] ** (-0.25 if rooted else -0.5)
    masses: F64s = spread(links.rows, links.weights, links.places, per_list, likings, rooted)
    return masses
