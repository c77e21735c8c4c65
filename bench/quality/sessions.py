"""Next item of a session: training sessions in date order, test rows scored alone and never learned.

    outcome = run(paths, seed=0, clock=time.perf_counter, bar=bar)

Weights are chosen on all prefixes of the newest tenth of the training lines, before these are learned; then every line is (`refit: true`),
also by the model, whose steps go on for a share of its time.
Source: the evaluation protocol, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from bench.quality.asking import Questions, nothing, ranks_of
from bench.quality.blending import CASES_MAX, choose
from bench.quality.layouts import Described, Sessions, read_sessions
from bench.quality.neural import REFIT_SHARE, Fitting, Material, Wanted, features_of, fitted, keep, refitted, source_of, training_seconds
from bench.quality.progress import Bar, Clock
from bench.quality.report import Outcome, check_asked
from bench.quality.systems import Nothing, Together
from encoders.base import I64s, Ragged
from encoders.blend import Blend
from trainers.sequence_baselines import SessionBaselines
from trainers.sequence_counts import ragged

NEWEST_SHARE: Final = 10
"""One training line in so many is validation."""
TOLD_AT_ONCE: Final = 512
"""Sessions learned between two moves of the bar."""

Counting: TypeAlias = SessionBaselines | Nothing


@dataclass
class Learner:
    """Systems with the state of some lines, the weights chosen on the newest of them, and what was told of the neural one's training."""

    counting: Counting
    systems: Together
    blend: Blend
    told: dict[str, object]

    def learn(self, sessions: Ragged, *, bar: Bar) -> None:
        """Learn sessions one by one, as a stream brings them; weights and model stay."""
        feed(self.counting, sessions, bar=bar)


def run(paths: Sequence[Path], *, seed: int, clock: Clock, bar: Bar, wanted: Wanted | None = None) -> Outcome:
    """Fit, choose weights, learn the rest, test; without `wanted` the counting sources alone."""
    data, began = read_sessions(paths), clock()
    check_asked(len(data.targets))
    learner = fit(data, len(data.train), Fitting(wanted, seed, clock, began) if wanted else None, seed=seed, bar=bar)
    ready = clock()
    ranks = ask(learner, data, bar=bar)
    seconds = {"fit": ready - began, "test": clock() - ready}
    return Outcome(
        ranks, learner.blend, seconds,
        catalogue=len(data.catalogue), rows_dropped=data.rows_dropped, refit=True, more={"neural": learner.told} if learner.told else {},
    )  # fmt: skip


def fit(data: Sessions, lines: int, fitting: Fitting | None, *, seed: int, bar: Bar) -> Learner:
    """Of the first so many lines learn all but the newest tenth, choose weights on that, learn it too; without `fitting` by counting alone.

    The model goes on with its weights over all these lines, for a share of its time.
    """
    num_items, older = len(data.catalogue), lines - lines // NEWEST_SHARE
    counting: Counting = SessionBaselines(num_items) if fitting is None or fitting.wanted.counting else Nothing()
    feed(counting, first(data.train, older), bar=bar)
    newest = between(data.train, older, lines)
    validation = prefixes(newest)
    systems, found, material = Together(counting), None, None
    if fitting is not None and fitting.wanted.neural:
        material = Material(first(data.train, older), validation, features_of(data.catalogue, Described()), exclude_seen=False)
        asked = min(CASES_MAX, len(validation)) + len(data.targets)
        seconds = training_seconds(material, counting, fitting, questions=asked)
        found = fitted(material, fitting, seconds=(1 - REFIT_SHARE) * seconds)
        systems = Together(counting, source_of(found.model, material.features))
    with bar(min(CASES_MAX, len(validation)), "choosing weights") as advance:
        blend = choose(systems, validation, num_items=num_items, seed=seed, advance=advance)
    told: dict[str, object] = {}
    if fitting is not None and found is not None and material is not None:
        found = refitted(found, replace(material, train=first(data.train, lines)), fitting, seconds=REFIT_SHARE * seconds)
        systems = Together(counting, source_of(found.model, material.features))
        told = {**found.told, "checkpoint": str(keep(found.model, fitting.wanted.folder))}
    feed(counting, newest, bar=bar)
    return Learner(counting, systems, blend, told)


def ask(learner: Learner, data: Sessions, *, bar: Bar) -> dict[str, I64s]:
    """Ranks of the test rows; what was seen stays a candidate, and nothing is learned."""
    test = Questions(data.prefixes, data.targets, nothing(len(data.targets)))
    with bar(len(test), "ranking") as advance:
        return ranks_of(learner.systems, test, learner.blend, num_items=len(data.catalogue), advance=advance)


def feed(counting: Counting, sessions: Ragged, *, bar: Bar) -> None:
    """Learn sessions one by one, in order."""
    cuts = list(pairwise(sessions.offsets.tolist()))
    with bar(len(cuts), "learning") as advance:
        for start in range(0, len(cuts), TOLD_AT_ONCE):
            told = cuts[start : start + TOLD_AT_ONCE]
            for begin, end in told:
                counting.learn(sessions.values[begin:end])
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
