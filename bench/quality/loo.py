"""Leave one out: each user's last item is the test, the one before it the validation, what comes before those the training.

    outcome = run(paths, seed=0, clock=time.perf_counter, bar=bar)

The input of a test shows the validation item, but counts and weights come from training alone (`refit: false`).
Source: the evaluation protocol, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from bench.quality.asking import Questions, ranks_of
from bench.quality.blending import CASES_MAX, choose
from bench.quality.layouts import Loo, read_loo
from bench.quality.neural import Fitting, Material, Wanted, features_of, fitted, keep, source_of, training_seconds
from bench.quality.progress import Bar, Clock
from bench.quality.report import Outcome, check_asked
from bench.quality.systems import Nothing, Together
from encoders.base import I64s, Ragged
from trainers.sequence_baselines import LooBaselines
from trainers.sequence_counts import ragged

EVENTS_MIN: Final = 3
"""Users with fewer only train."""


@dataclass(frozen=True)
class Split:
    """Training sequences, and a question of each user with at least three events for validation and for test."""

    train: Ragged
    validation: Questions
    test: Questions


def split(data: Loo) -> Split:
    """Cut each user's sequence; what an input shows is no candidate."""
    values, offsets = data.sequences.values, data.sequences.offsets.tolist()
    sequences = [values[begin:end] for begin, end in pairwise(offsets)]
    asked = [sequence for sequence in sequences if len(sequence) >= EVENTS_MIN]
    train = [sequence[:-2] if len(sequence) >= EVENTS_MIN else sequence for sequence in sequences]
    return Split(ragged(train), _questions([sequence[:-1] for sequence in asked]), _questions(asked))


def run(paths: Sequence[Path], *, seed: int, clock: Clock, bar: Bar, wanted: Wanted | None = None) -> Outcome:
    """Fit, choose weights, test; without `wanted` the counting sources alone."""
    data, began = read_loo(paths), clock()
    parts, num_items, more = split(data), len(data.catalogue), dict[str, object]()
    check_asked(len(parts.test))
    with bar(None, "counting, solving"):
        counting = LooBaselines(parts.train, num_items) if wanted is None or wanted.counting else Nothing()
    systems = Together(counting)
    if wanted is not None and wanted.neural:
        features, fitting = features_of(data.catalogue, data.described), Fitting(wanted, seed, clock, began)
        material = Material(parts.train, parts.validation, features, exclude_seen=True)
        asked = min(CASES_MAX, len(parts.validation)) + len(parts.test)
        found = fitted(material, fitting, seconds=training_seconds(material, counting, fitting, questions=asked))
        systems = Together(counting, source_of(found.model, features))
        more["neural"] = {**found.told, "checkpoint": str(keep(found.model, wanted.folder))}
    with bar(min(CASES_MAX, len(parts.validation)), "choosing weights") as advance:
        blend = choose(systems, parts.validation, num_items=num_items, seed=seed, advance=advance)
    ready = clock()
    with bar(len(parts.test), "ranking") as advance:
        ranks = ranks_of(systems, parts.test, blend, num_items=num_items, advance=advance)
    seconds = {"fit": ready - began, "test": clock() - ready}
    return Outcome(ranks, blend, seconds, catalogue=num_items, rows_dropped=data.rows_dropped, refit=False, more=more)


def _questions(sequences: list[I64s]) -> Questions:
    """The last item of each after those before it."""
    inputs = [sequence[:-1] for sequence in sequences]
    targets = np.array([sequence[-1] for sequence in sequences], dtype=np.int64)
    return Questions(ragged(inputs), targets, ragged([np.unique(shown) for shown in inputs]))
