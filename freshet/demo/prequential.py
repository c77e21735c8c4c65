"""Test, then learn: each system ranks the item that is about to be taken, before anybody has seen the event.

Candidates are the catalogue's items that the user has not had. A user's first event is learned, not ranked; a repeated
(user, item) is neither (protocols: `prequential`).

    contest = Contest(service, num_items); contest.ask(event); ...apply the event...; contest.learn(event)
"""

import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from freshet.demo.counted import BASELINES
from freshet.demo.questions import MODEL_SYSTEMS, Asked, Question
from freshet.demo.ranking import Ranking
from freshet.learning.weighing import Weighing
from freshet.service import Loaded, Service
from serving.linear import NOTHING
from serving.live import LiveModel
from serving.lookup import COUNTING
from serving.neural import aimed
from serving.sources import LINEAR, SOURCES, Context
from storage.arrays import F64s, I64s
from storage.ids import ITEM, hash_id
from stream.events import Event
from trainers.metrics import Gain, paired_bootstrap

SYSTEMS: Final = (*MODEL_SYSTEMS, *BASELINES)
ABOUT: Final = {
    "model": "the live model: neural score and live counts, blended; fine-tuned and weighed anew as events come",
    "neural": "the live model's neural score alone",
    "frozen": "the model as it was after the warm-up, over the same live state",
    "counting_blend": "the same blend, refitted without the neural source",
    "popular": "how often an item was taken",
    "recent": "how often an item was taken lately",
    "cooccurrence": "sequential rules: what was taken soon after the user's last ten",
}
LOOKUP_EVERY: Final = 16
"""Every so many-th ranking is also asked for as an application would, and timed; the live version's weights learn from it."""


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
        self._ranking = Ranking(self.service.view.catalogue, self.service.view.index, self.num_items)
        self._had: dict[str, set[int]] = {}
        self._weighing = Weighing(self.service)

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
            self._ranking.took(event.user_id, row)

    def ranks(self) -> I64s:
        """Every system's mid-rank of each item, (n, systems) in the order of SYSTEMS; waits for what is not ranked yet."""
        return _table(self._ranking.ranks())

    def hits(self) -> dict[str, F64s]:
        """[rank <= 10] by system, (n,) each."""
        return hits_of(self.ranks())

    def lately(self, newest: int) -> dict[str, F64s]:
        """The same of the newest so many."""
        return hits_of(_table(self._ranking.ranks()[-newest:]))

    @property
    def rss_mb(self) -> float:
        """The peak memory of the process that ranks, as it last said."""
        return self._ranking.rss_mb

    def gains(self, over: tuple[str, ...], *, seed: int) -> dict[str, Gain]:
        """By how much the model's hit rate is above these systems', with its 95 % interval (paired bootstrap)."""
        hits = self.hits()
        return {name: paired_bootstrap(hits["model"], hits[name], generator=np.random.default_rng(seed)) for name in over}

    def close(self) -> None:
        """End the process that ranks."""
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
        models = [loaded for loaded in (current, self.frozen) if loaded is not None]
        weighed = COUNTING.weighed.union(*(blend.weighed for loaded in models for blend in (loaded.live.blend, loaded.counting)))
        live = current.live if current else None
        aim = None if lookup.all_are_candidates(context) else aimed(context.history, live, now_ms=context.now_ms)
        linear = live.linear if live else NOTHING
        rows = lookup.candidates(context, aim, linear=linear)
        at = np.flatnonzero(rows == row)
        if not len(at):  # not retrieved: behind everything that was
            self._ranking.ask(Asked(event.user_id, row, len(service.view.catalogue), None), [])
            return
        question = Question(
            now_ms=context.now_ms,
            items=context.history.items.tobytes(),
            actions=context.history.actions.tobytes(),
            ts_ms=context.history.ts_ms.tobytes(),
            rows=rows.astype(np.uint32).tobytes(),
            counts=lookup.counting(context, rows, neural=live is not None, linear=linear, asked=weighed).tobytes(),
            weights=(live.blend if live else COUNTING).over(SOURCES).weights.tobytes(),
            frozen_linear=self._frozen_linear(context, rows, live).tobytes(),
            at=int(at[0]),
            live=live.version if live else None,
            frozen=self.frozen.live.version if self.frozen else None,
        )
        self._ranking.ask(Asked(event.user_id, row, 0, question), models)
        if self.asked % LOOKUP_EVERY == 0 and live is not None:
            columns = lookup.features(context, aimed(context.history, live, now_ms=context.now_ms), rows, linear=linear)
            self._weighing.learn(columns, int(at[0]), asker=event.user_id)

    def _frozen_linear(self, context: Context, rows: I64s, live: LiveModel | None) -> F64s:
        """The frozen version's linear columns; empty where they are the live one's, or weigh nothing."""
        if self.frozen is None or not self.frozen.live.blend.weighed.intersection(SOURCES[LINEAR]):
            return np.empty(0)
        if live is not None and live.version == self.frozen.live.version:
            return np.empty(0)
        return self.service.lookup.linear(context, rows, neural=True, linear=self.frozen.live.linear)


def _table(ranks: list[list[int]]) -> I64s:
    """(n, systems), also of none."""
    return np.array(ranks, dtype=np.int64).reshape(-1, len(SYSTEMS))


def hits_of(ranks: I64s) -> dict[str, F64s]:
    """[rank <= 10] by system, (n,) each, of ranks (n, systems) in the order of SYSTEMS."""
    return {name: (ranks[:, n] <= 10).astype(np.float64) for n, name in enumerate(SYSTEMS)}
