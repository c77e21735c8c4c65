"""Test, then learn: each system ranks the item that is about to be taken, before anybody has seen the event.

Candidates are the catalogue's items that the user has not had. A user's first event is learned, not ranked; a repeated
(user, item) is neither (protocols: `prequential`).

    contest = Contest(service, num_items); contest.ask(event); ...apply the event...; contest.learn(event)
"""

import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from freshet.service import Loaded, Service
from serving.lookup import COUNTING, blended
from serving.neural import aimed
from serving.sources import SOURCES, Context
from storage.arrays import F64s, I64s
from storage.ids import ITEM, hash_id
from stream.events import Event
from trainers.baselines import Baseline, Popular, RecentPopular, seq_rules
from trainers.metrics import Gain, mid_ranks, paired_bootstrap

MODEL_SYSTEMS: Final = ("model", "neural", "frozen", "counting_blend")
BASELINES: Final = ("popular", "recent", "cooccurrence")
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
    """All systems over one stream. `frozen` is set once, after the warm-up. Ranks are (events, systems), 0 = not ranked."""

    service: Service
    num_items: int
    frozen: Loaded | None = None
    had: dict[str, dict[int, None]] = field(default_factory=dict)
    ranks: list[list[int]] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    lookup_ms: list[float] = field(default_factory=list)
    asked: int = 0
    not_ranked: int = 0

    def __post_init__(self) -> None:
        parts: tuple[Baseline, ...] = (Popular(self.num_items), RecentPopular(self.num_items), seq_rules(self.num_items))
        self._baselines = dict(zip(BASELINES, parts, strict=True))

    def ask(self, event: Event) -> list[int] | None:
        """Every system's mid-rank of the item, in the order of SYSTEMS; None when the event is not ranked."""
        self.asked += 1
        had = self.had.get(event.user_id)
        row = self._row(event)
        if row < 0 or not had or row in had:
            self.not_ranked += 1
            return None
        ranks = self._model_ranks(event, row) + self._baseline_ranks(had, row)
        self.ranks.append(ranks)
        self.at.append(self.asked)
        return ranks

    def learn(self, event: Event) -> None:
        """Let the counting baselines learn the event; the product learned it by ingest."""
        row = self._row(event)
        had = self.had.setdefault(event.user_id, {})
        if row < 0 or row in had:
            return
        history = _newest_first(had)
        for baseline in self._baselines.values():
            baseline.learn(history, row)
        had[row] = None

    def hits(self, newest: int | None = None) -> dict[str, F64s]:
        """[rank <= 10] by system, (n,) each; of the newest so many only, if asked."""
        table = np.array(self.ranks[-newest:] if newest else self.ranks, dtype=np.int64).reshape(-1, len(SYSTEMS))
        return {name: (table[:, n] <= 10).astype(np.float64) for n, name in enumerate(SYSTEMS)}

    def gains(self, over: tuple[str, ...], *, seed: int) -> dict[str, Gain]:
        """By how much the model's hit rate is above these systems', with its 95 % interval (paired bootstrap)."""
        hits = self.hits()
        return {name: paired_bootstrap(hits["model"], hits[name], generator=np.random.default_rng(seed)) for name in over}

    def _row(self, event: Event) -> int:
        """-1 without an item, and for an item born after the contest began: the baselines have no place for it."""
        row = self.service.view.catalogue.row(hash_id(event.item_id, ITEM)) if event.item_id is not None else -1
        return row if row < self.num_items else -1

    def _model_ranks(self, event: Event, row: int) -> list[int]:
        service, lookup, current = self.service, self.service.lookup, self.service.current
        if self.asked % LOOKUP_EVERY == 0:
            begin = time.perf_counter_ns()
            lookup.recommend(event.user_id, k=10, now_ms=event.ts_ms)
            self.lookup_ms.append((time.perf_counter_ns() - begin) / 1e6)
        context = lookup.context(event.user_id, now_ms=event.ts_ms)
        live = current.live if current else None
        aim = aimed(context, live)
        rows = lookup.candidates(context, aim)
        at = np.flatnonzero(rows == row)
        if not len(at):  # not retrieved: behind everything that was
            return [len(service.view.catalogue)] * len(MODEL_SYSTEMS)
        features = lookup.features(context, aim, rows)
        counting = current.counting if current else COUNTING
        answers = {
            "model": blended(live.blend if live else COUNTING, features),
            "neural": features[:, 0],
            "frozen": self._frozen_scores(context, rows, features),
            "counting_blend": features[:, 1:] @ counting.weights if counting.sources == SOURCES[1:] else blended(counting, features),
        }
        scores = np.stack([answers[name] for name in MODEL_SYSTEMS])
        return mid_ranks(scores, np.full(len(scores), at[0])).tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def _frozen_scores(self, context: Context, rows: I64s, features: F64s) -> F64s:
        frozen, current = self.frozen, self.service.current
        if frozen is None:
            return blended(COUNTING, features)
        if current is frozen:
            return blended(frozen.live.blend, features)
        own = features.copy()
        own[:, 0] = self.service.lookup.neural(aimed(context, frozen.live), rows)
        return blended(frozen.live.blend, own)

    def _baseline_ranks(self, had: dict[int, None], row: int) -> list[int]:
        history = _newest_first(had)
        scores = np.stack([baseline.scores(history) for baseline in self._baselines.values()])
        scores[:, np.fromiter(had, np.int64, len(had))] = -np.inf
        return mid_ranks(scores, np.full(len(scores), row)).tolist()  # type: ignore[no-any-return]  # numpy's tolist


def _newest_first(had: dict[int, None]) -> I64s:
    return np.fromiter(reversed(had), np.int64, len(had))
