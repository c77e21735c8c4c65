"""Test, then learn, on the live stream: now and then an event is ranked by the live model just before it is applied.

asking = Asking(service, every_ms=200, generator=generator); asking.before(records, now_ms=now_ms); asking.statistics.figures()
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from freshet.learning.weighing import Weighing
from freshet.service import Serving
from serving.linear import NOTHING
from serving.live import LiveModel
from serving.lookup import COUNTING, blended
from serving.neural import aimed
from serving.online import TOP, Case, Online
from serving.sources import LINEAR, SOURCES, Context
from storage.arrays import F64s, I64s
from storage.ids import ITEM, hash_id
from storage.log import Record
from stream.validation import refusals
from stream.wire import decode
from trainers.drift import Drift
from trainers.metrics import discounted_gain, mid_ranks
from trainers.regret import Regret

MODEL: Final = "model"
PREDECESSOR: Final = "predecessor"


class Asking:
    """Of each batch at most one event, and at most one each `every_ms`: what it costs is bounded, whatever the load.

    An event counts if it would be accepted, is a liking of a known item, and its user has a history without the item. What drifts is
    the model's discounted gain; `drifted` says so until it is cleared. The version that was live before is asked too, and `fallen` has the
    words once it is shown that it would have done better. Its vectors follow births and new content only, which is to its harm.
    What was ranked is learned from: the live version's weights follow it.
    """

    def __init__(self, service: Serving, *, every_ms: int, generator: np.random.Generator, weighing: Weighing | None = None) -> None:
        self.weighing = weighing or Weighing(service)
        self._service, self._every_ms, self._generator = service, every_ms, generator
        self._lookup = service.lookup
        self._asked_ms: int | None = None
        self._drift = Drift()
        self._regret, self._flip = Regret(), ("", "")
        self.statistics = Online()
        self.drifted = self._fallen = ""

    def before(self, records: Sequence[Record], *, now_ms: int) -> None:
        """Look at one event of a batch that is about to be applied."""
        if not records or (self._asked_ms is not None and now_ms - self._asked_ms < self._every_ms):
            return
        self._asked_ms = now_ms
        found = self._case(records[int(self._generator.integers(len(records)))])
        if found is None:
            return
        user_id, case = found
        self.statistics.add(case)
        gain = _gain(case, MODEL)
        self.drifted = self._drift.update(gain) or self.drifted
        if PREDECESSOR in case.ranks:
            self._fallen = self._regret.add(live=gain, before=_gain(case, PREDECESSOR), asker=user_id) or self._fallen

    def fallen(self, version: str) -> str:
        """In words by how much this version does worse than the one before it; empty while that is not shown."""
        return self._fallen if self._flip[0] == version else ""

    def held(self) -> None:
        """What was shown of the live version is known and no news any more, until it is shown again."""
        self._fallen = ""

    def _case(self, record: Record) -> tuple[str, Case] | None:
        decoded = decode([record])
        if not len(decoded):
            return None
        row = int(self._generator.integers(len(decoded)))
        (event,) = decoded.events.slice(row, 1).to_pylist()
        refused = refusals(decoded.source, np.full(len(decoded), record.append_ms), self._service.shape)
        if row in refused or event["item_id"] is None or not self._service.shape.actions[event["action"]].positive:
            return None
        item = self._service.view.catalogue.row(hash_id(event["item_id"], ITEM))
        context = self._lookup.context(event["user_id"], now_ms=event["ts_ms"])
        if item < 0 or context.cold or item in context.seen:
            return None
        return event["user_id"], self._ranked(context, item, event["user_id"])

    def _ranked(self, context: Context, item: int, user_id: str) -> Case:
        current, predecessor = self._service.current, self._service.predecessor
        live = current.live if current else None
        aim = aimed(context.history, live, now_ms=context.now_ms)
        linear = live.linear if live else NOTHING
        rows = self._lookup.candidates(context, aim, linear=linear)
        features = self._lookup.features(context, aim, rows, linear=linear)
        scores = blended(live.blend if live else COUNTING, features)
        shares = (context.heat.events + 1) / (context.heat.events.sum() + len(context.heat.events))
        top = rows[np.argsort(-scores, kind="stable")[:TOP]]
        at = np.flatnonzero(rows == item)
        ranks = _ranks(np.vstack([scores, features.T]), at, len(context.live))
        named = dict(zip((MODEL, *SOURCES), ranks, strict=True))
        if live is None:
            del named["neural"]
        if not linear:
            for source in SOURCES[LINEAR]:
                del named[source]
        if live is not None and predecessor is not None:
            self._watch(live.version, predecessor.live.version)
            named[PREDECESSOR] = self._rank_of(predecessor.live, context, item)
        if len(at):
            self.weighing.learn(features, int(at[0]), asker=user_id)
        return Case(named, len(context.seen), float(context.heat.events[item]), tuple(top.tolist()), tuple(shares[top].tolist()))

    def _rank_of(self, live: LiveModel, context: Context, item: int) -> int:
        ranking = self._lookup.rank(context, live)
        return _ranks(ranking.scores[None], np.flatnonzero(ranking.rows == item), len(context.live))[0]

    def _watch(self, version: str, before: str) -> None:
        """A flip begins a new comparison."""
        if self._flip != (version, before):
            self._flip, self._regret, self._fallen = (version, before), Regret(), ""


def _gain(case: Case, system: str) -> float:
    return float(discounted_gain(np.array([case.ranks[system]]))[0])


def _ranks(scores: F64s, at: I64s, last: int) -> list[int]:
    """Mid-ranks of the candidate `at`, by row of the scores (S, C); what was not retrieved is behind everything."""
    if not len(at):
        return [last] * len(scores)
    return mid_ranks(scores, np.full(len(scores), at[0])).tolist()  # type: ignore[no-any-return]  # numpy's tolist
