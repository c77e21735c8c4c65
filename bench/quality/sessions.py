"""Next item of a session: training sessions in date order, test rows scored alone and never learned.

    outcome = run(paths, seed=0, clock=time.perf_counter, bar=bar)

Weights are chosen on all prefixes of the newest tenth of the training lines, before these are learned; then every line is (`refit: true`).
Source: the evaluation protocol, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from bench.quality.asking import Questions, nothing, ranks_of
from bench.quality.blending import CASES_MAX, choose
from bench.quality.layouts import Sessions, read_sessions
from bench.quality.progress import Bar, Clock
from bench.quality.report import Outcome
from encoders.base import I64s, Ragged
from encoders.blend import Blend
from trainers.sequence_baselines import SessionBaselines
from trainers.sequence_counts import ragged

NEWEST_SHARE: Final = 10
"""One training line in so many is validation."""
TOLD_AT_ONCE: Final = 512
"""Sessions learned between two moves of the bar."""


@dataclass
class Learner:
    """Systems with the state of some lines, and the weights chosen on the newest of them."""

    systems: SessionBaselines
    blend: Blend

    def learn(self, sessions: Ragged, *, bar: Bar) -> None:
        """Learn sessions one by one, as a stream brings them; the weights stay."""
        feed(self.systems, sessions, bar=bar)


def run(paths: Sequence[Path], *, seed: int, clock: Clock, bar: Bar) -> Outcome:
    """Fit, choose weights, learn the rest, test."""
    data, began = read_sessions(paths), clock()
    learner = fit(data.train, len(data.catalogue), seed=seed, bar=bar)
    fitted = clock()
    ranks = ask(learner, data, bar=bar)
    seconds = {"fit": fitted - began, "test": clock() - fitted}
    return Outcome(ranks, learner.blend, seconds, catalogue=len(data.catalogue), rows_dropped=data.rows_dropped, refit=True)


def fit(train: Ragged, num_items: int, *, seed: int, bar: Bar) -> Learner:
    """Learn all lines but the newest tenth, choose weights on that, learn it too."""
    systems, lines = SessionBaselines(num_items), len(train)
    older = lines - lines // NEWEST_SHARE
    feed(systems, first(train, older), bar=bar)
    newest = between(train, older, lines)
    validation = prefixes(newest)
    with bar(min(CASES_MAX, len(validation)), "choosing weights") as advance:
        blend = choose(systems, validation, num_items=num_items, seed=seed, advance=advance)
    feed(systems, newest, bar=bar)
    return Learner(systems, blend)


def ask(learner: Learner, data: Sessions, *, bar: Bar) -> dict[str, I64s]:
    """Ranks of the test rows; what was seen stays a candidate, and nothing is learned."""
    test = Questions(data.prefixes, data.targets, nothing(len(data.targets)))
    with bar(len(test), "ranking") as advance:
        return ranks_of(learner.systems, test, learner.blend, num_items=len(data.catalogue), advance=advance)


def feed(systems: SessionBaselines, sessions: Ragged, *, bar: Bar) -> None:
    """Learn sessions one by one, in order."""
    cuts = list(pairwise(sessions.offsets.tolist()))
    with bar(len(cuts), "learning") as advance:
        for start in range(0, len(cuts), TOLD_AT_ONCE):
            told = cuts[start : start + TOLD_AT_ONCE]
            for begin, end in told:
                systems.learn(sessions.values[begin:end])
            advance(len(told))


def prefixes(sessions: Ragged) -> Questions:
    """Every proper prefix of every session, and what came after it."""
    offsets = sessions.offsets.tolist()
    pairs = [(begin, cut) for begin, end in pairwise(offsets) for cut in range(begin + 1, end)]
    inputs = ragged([sessions.values[begin:cut] for begin, cut in pairs])
    return Questions(inputs, sessions.values[np.array([cut for _, cut in pairs], dtype=np.int64)], nothing(len(pairs)))


def first(sessions: Ragged, count: int) -> Ragged:
    """The oldest so many."""
    return between(sessions, 0, count)


def between(sessions: Ragged, start: int, stop: int) -> Ragged:
    """Sessions start..stop - 1."""
    return sessions.take(np.arange(start, stop))
