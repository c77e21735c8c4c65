"""Test, then learn: each event is ranked among what its user has not had, then learned.

    outcome = run([path], seed=0, clock=time.perf_counter, bar=bar, wanted=Wanted(folder))

With `wanted` the product's own loop (`bench/quality/live.py`) is the blend, and the blend of these counting sources stands as `counting`.
Equal times keep the file order and are ranked and learned one by one (`ties: file`, the headline); beside it stands `ties: block`, where
all events of one time are ranked on the state before any of them. The first n // 5 events only warm up; the weights are chosen on them.
Source: the evaluation protocol, section 4.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.quality.asking import BLEND, Advance
from bench.quality.blending import CASES_MAX, case_of, from_best
from bench.quality.events import Events, read_events
from bench.quality.layouts import BadData
from bench.quality.live import NEURAL, passes
from bench.quality.neural import Wanted
from bench.quality.progress import Bar, Clock
from bench.quality.report import Outcome, summary
from encoders.base import F64s, I64s
from encoders.blend import Blend
from serving.features import EPSILON
from trainers.baselines import Baselines
from trainers.blend import Case
from trainers.kernels import add_log_shares
from trainers.metrics import discounted_gain, mid_ranks

COUNTED: Final = "counting"
"""The blend of the counting sources alone, its weights chosen on the warm-up, where the product's own loop is the blend."""
NAMES: Final = ("pop", "recent", "knn", "rules", "mix")
WARM_UP_SHARE: Final = 5
"""The first event in so many only warms up."""
_NOTHING: Final = np.zeros(0, dtype=np.int64)
_NO_LISTS: Final = np.zeros(2, dtype=np.int64)


def run(paths: Sequence[Path], *, seed: int, clock: Clock, bar: Bar, wanted: Wanted | None = None) -> Outcome:
    """Both orders of equal times, the headline first; then the product's loop, if it is wanted, in the headline's order."""
    if len(paths) != 1:
        raise BadData(f"prequential takes one path, not {len(paths)}: {', '.join(map(str, paths))}")
    events = read_events(paths[0])
    one_by_one, together = (walked(events, blocks, clock=clock, bar=bar) for blocks in (np.arange(len(events.items) + 1), events.blocks))
    more = {"not_ranked": one_by_one.more["not_ranked"], "ties": "file"}
    block = {"not_ranked": together.more["not_ranked"], **summary("prequential", together, seed=seed), "seconds": together.seconds}
    outcome = Outcome(
        one_by_one.ranks, one_by_one.blend, one_by_one.seconds,
        catalogue=one_by_one.catalogue, rows_dropped=events.rows_dropped, refit=None, more={**more, "block": block},
    )  # fmt: skip
    return outcome if wanted is None or not wanted.neural else _with_loop(paths[0], outcome, wanted, clock=clock)


def _with_loop(path: Path, counted: Outcome, wanted: Wanted, *, clock: Clock) -> Outcome:
    """The same cases asked of the product."""
    began = clock()
    place = {"train_device": wanted.device, "train_precision": wanted.precision}
    passed = passes(path, seconds=60 * wanted.minutes - sum(counted.seconds.values()), say=wanted.told, more=place)
    asked, wanted_of = {name: len(of) for name, of in passed.ranks.items()}, len(counted.ranks[BLEND])
    if set(asked.values()) != {wanted_of}:
        raise BadData(f"{path}: the product reads other events of it than the protocol: {asked} cases, {wanted_of} are wanted")
    singles = {name: of for name, of in counted.ranks.items() if name != BLEND}
    return replace(
        counted,
        ranks={**singles, COUNTED: counted.ranks[BLEND], **passed.ranks},
        blend=passed.blend,
        singles=(*singles, NEURAL),
        seconds=counted.seconds | {"loop": clock() - began},
        more={**counted.more, "loop": passed.told},
    )


def walked(events: Events, blocks: I64s, *, clock: Clock, bar: Bar) -> Outcome:
    """Events blocks[t]..blocks[t + 1] are ranked on the state before the first of them."""
    walk, began, warm = Walk(len(events.catalogue)), clock(), len(events.items) // WARM_UP_SHARE
    warmed = began
    with bar(len(events.items), "test, then learn") as advance:
        for begin, end in zip(blocks[:-1].tolist(), blocks[1:].tolist(), strict=True):
            for at in range(begin, end):
                if at == warm:
                    walk.begin_test()
                    warmed = clock()
                walk.ask(int(events.users[at]), int(events.items[at]))
            _learn(walk, events, begin, end, advance)
    ranks = np.array(walk.ranks, dtype=np.int64).reshape(-1, len(NAMES) + 1)
    return Outcome(
        {name: ranks[:, at] for at, name in enumerate((*NAMES, BLEND))},
        walk.blend,
        {"fit": warmed - began, "test": clock() - warmed},
        catalogue=len(events.catalogue),
        rows_dropped=events.rows_dropped,
        refit=None,
        more={"not_ranked": walk.not_ranked},
    )


def _learn(walk: "Walk", events: Events, begin: int, end: int, advance: Advance) -> None:
    for at in range(begin, end):
        walk.learn(int(events.users[at]), int(events.items[at]))
    advance(end - begin)


@dataclass
class Walk:
    """The baselines over one stream. What is asked becomes cases for the weights until `begin_test`, and rows of ranks afterwards."""

    num_items: int
    ranks: list[list[int]] = field(default_factory=list)
    not_ranked: int = 0
    testing: bool = False
    blend: Blend = field(default_factory=lambda: from_best(NAMES, dict.fromkeys(NAMES, 0.0), []))

    def __post_init__(self) -> None:
        self._baselines = Baselines(self.num_items)
        self._had: dict[int, dict[int, None]] = {}
        self._cases: deque[tuple[Case | None, F64s]] = deque(maxlen=CASES_MAX)

    def ask(self, user: int, item: int) -> None:
        """Rank the item by every system, unless it is the user's first or has been had."""
        had = self._had.get(user)
        if not had or item in had:
            self.not_ranked += self.testing
            return
        history = np.fromiter(reversed(had), np.int64, len(had))
        by_name = self._baselines.scores(history)
        scores = np.stack([by_name[name] for name in NAMES])
        scores[:, history] = -np.inf
        if self.testing:
            scores = np.vstack([scores, self._blended(scores, history)])
        ranks = mid_ranks(scores, np.full(len(scores), item))
        if self.testing:
            self.ranks.append(ranks.tolist())
        else:
            columns = np.zeros_like(scores)
            for at in range(len(NAMES)):
                _add(columns[at : at + 1], scores[at : at + 1], 1.0)
            self._cases.append((case_of(columns, item, left_out=history), discounted_gain(ranks)))

    def begin_test(self) -> None:
        """Choose the weights on the newest questions of the warm-up."""
        gains = sum((gain for _, gain in self._cases), np.zeros(len(NAMES)))
        by_name = dict(zip(NAMES, gains.tolist(), strict=True))
        self.blend = from_best(NAMES, by_name, [case for case, _ in self._cases if case])
        self.testing = True
        self._cases.clear()

    def learn(self, user: int, item: int) -> None:
        """Learn the event, unless the user has had the item."""
        had = self._had.setdefault(user, {})
        if item not in had:
            self._baselines.learn(np.fromiter(reversed(had), np.int64, len(had)), item)
            had[item] = None

    def _blended(self, scores: F64s, history: I64s) -> F64s:
        total = np.zeros((1, self.num_items))
        for at, weight in enumerate(self.blend.weights.tolist()):
            if weight > 0.0:
                _add(total, scores[at : at + 1], weight)
        total[:, history] = -np.inf
        return total


def _add(total: F64s, scores: F64s, weight: float) -> None:
    add_log_shares(total, scores, weight, EPSILON, _NOTHING, _NO_LISTS)
