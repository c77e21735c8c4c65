"""Test, then learn: each system ranks the item that is about to be taken, before anybody has seen the event.

Candidates are the catalogue's items that the user has not had. A user's first event is learned, not ranked; a repeated
(user, item) is neither (protocols: `prequential`).

    contest = Contest(service, num_items); contest.ask(event); ...apply the event...; contest.learn(event)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from freshet.demo.ranking import BASELINES, Ranking, Still
from freshet.service import Loaded, Service
from serving.live import LiveModel
from serving.lookup import COUNTING, blended
from serving.neural import aimed
from serving.sources import SOURCES, Context
from storage.arrays import F64s, I64s
from storage.ids import ITEM, hash_id
from stream.events import Event
from trainers.metrics import Gain, mid_ranks, paired_bootstrap

MODEL_SYSTEMS: Final = ("model", "neural", "frozen", "counting_blend")
SYSTEMS: Final = (*MODEL_SYSTEMS, *BASELINES)
ABOUT: Final = {
    "model": "the live model: neural score and live counts, blended; fine-tuned as events come",
    "neural": "the live model's neural score alone",
    "frozen": "the model as it was after the warm-up, over the same live state",
    "counting_blend": "the same blend, refitted without the neural source",
    "popular": "how often an item was taken",
    "recent": "how often an item was taken lately",
    "cooccurrence": "sequential rules: what was taken soon after the user's last ten",
}
LOOKUP_EVERY: Final = 16
"""Every so many-th ranking is also asked for as an application would, and timed."""


@dataclass
class Contest:
    """All systems over one stream. `frozen` is set once, after the warm-up. `at`: of each ranked event, how many were asked then."""

    service: Service
    num_items: int
    frozen: Loaded | None = None
    at: list[int] = field(default_factory=list)
    lookup_ms: list[float] = field(default_factory=list)
    asked: int = 0
    not_ranked: int = 0

    def __post_init__(self) -> None:
        self._ranking, self._still, self._frozen_still = Ranking(self.num_items), Still(), Still()
        self._had: dict[str, set[int]] = {}

    def ask(self, event: Event) -> bool:
        """Rank the item by every system; False when the event is not ranked."""
        self.asked += 1
        had = self._had.get(event.user_id)
        row = self._row(event)
        if row < 0 or not had or row in had:
            self.not_ranked += 1
            return False
        self._rank(event, row)
        self.at.append(self.asked)
        return True

    def learn(self, event: Event) -> None:
        """Let the counting baselines learn the event; the product learned it by ingest."""
        row = self._row(event)
        had = self._had.setdefault(event.user_id, set())
        if row >= 0 and row not in had:
            had.add(row)
            self._ranking.learn(event.user_id, row)

    def ranks(self) -> I64s:
        """Every system's mid-rank of each item, (n, systems) in the order of SYSTEMS; waits for what is not ranked yet."""
        return _table(self._ranking.ranks())

    def hits(self) -> dict[str, F64s]:
        """[rank <= 10] by system, (n,) each."""
        return hits_of(self.ranks())

    def lately(self, newest: int) -> dict[str, F64s]:
        """The same of the newest so many of those that are ranked by now."""
        return hits_of(_table(self._ranking.so_far()[-newest:]))

    def gains(self, over: tuple[str, ...], *, seed: int) -> dict[str, Gain]:
        """By how much the model's hit rate is above these systems', with its 95 % interval (paired bootstrap)."""
        hits = self.hits()
        return {name: paired_bootstrap(hits["model"], hits[name], generator=np.random.default_rng(seed)) for name in over}

    def close(self) -> None:
        """End the thread that ranks."""
        self._ranking.close()

    def _row(self, event: Event) -> int:
        """-1 without an item, and for an item born after the contest began: the baselines have no place for it."""
        row = self.service.view.catalogue.row(hash_id(event.item_id, ITEM)) if event.item_id is not None else -1
        return row if row < self.num_items else -1

    def _rank(self, event: Event, row: int) -> None:
        service, lookup, current = self.service, self.service.lookup, self.service.current
        if self.asked % LOOKUP_EVERY == 0:
            begin = time.perf_counter_ns()
            lookup.recommend(event.user_id, k=10, now_ms=event.ts_ms)
            self.lookup_ms.append((time.perf_counter_ns() - begin) / 1e6)
        context = lookup.context(event.user_id, now_ms=event.ts_ms)
        live = current.live if current else None
        aim = None if lookup.all_are_candidates(context) else aimed(context, live)
        rows = lookup.candidates(context, aim)
        at = np.flatnonzero(rows == row)
        if not len(at):  # not retrieved: behind everything that was
            last = len(service.view.catalogue)
            self._ranking.ask(event.user_id, row, models=lambda: [last] * len(MODEL_SYSTEMS))
            return
        counts = lookup.counting(context, rows, neural=live is not None)
        own = self._neural(self._still, context, live, rows) if aim is None else _known(lookup.neural(aim, rows))
        frozen = self.frozen.live if self.frozen else None
        other = self._neural(self._frozen_still, context, frozen, rows) if self.frozen is not current else None
        counting = current.counting if current else COUNTING

        def ranks() -> list[int]:
            features = np.vstack([own(), counts]).T
            stale = features if other is None else np.vstack([other(), counts]).T
            scores = (
                blended(live.blend if live else COUNTING, features),
                features[:, 0],
                blended(frozen.blend if frozen else COUNTING, stale),
                features[:, 1:] @ counting.weights if counting.sources == SOURCES[1:] else blended(counting, features),
            )
            return mid_ranks(np.stack(scores), np.full(len(scores), at[0])).tolist()  # type: ignore[no-any-return]  # numpy's tolist

        self._ranking.ask(event.user_id, row, models=ranks)

    def _neural(self, still: Still, context: Context, live: LiveModel | None, rows: I64s) -> Callable[[], F64s]:
        """The neural scores of candidates (C,), to be computed later from the vectors as they are now."""
        held, lookup = still.of(live) if live else None, self.service.lookup
        return lambda: lookup.neural(aimed(context, held), rows)


def _known(scores: F64s) -> Callable[[], F64s]:
    return lambda: scores


def _table(ranks: list[list[int]]) -> I64s:
    """(n, systems), also of none."""
    return np.array(ranks, dtype=np.int64).reshape(-1, len(SYSTEMS))


def hits_of(ranks: I64s) -> dict[str, F64s]:
    """[rank <= 10] by system, (n,) each, of ranks (n, systems) in the order of SYSTEMS."""
    return {name: (ranks[:, n] <= 10).astype(np.float64) for n, name in enumerate(SYSTEMS)}
