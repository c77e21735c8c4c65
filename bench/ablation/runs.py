"""One run: a variant trained on a file of sequences, and how it ranks what came next.

    given = read(paths); found = measured(given, "no graph", Budget(steps=1500, seconds=180.0), seed=0, clock=clock)

UE: what a user takes next, among all items not yet had. EE: the same asked by the vector of the user's last item alone, which is what
neighbours are for. Both are full rankings, where the papers rank among random items; neither is asked on validation data.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from bench.ablation.variants import VARIANTS, Variant, planned, planned_model
from bench.one_thread import one_thread
from bench.quality.asking import Questions
from bench.quality.layouts import Loo, read_loo
from bench.quality.loo import split
from bench.quality.neural import HISTORY_MIN, HISTORY_QUANTILE, STEP_POSITIONS, action_code, features_of
from encoders.base import F32s, I64s, ItemFeatures, Ragged
from encoders.model import Model
from stream.shape import Shape
from trainers.config import CPU, FLOAT32, TrainConfig
from trainers.graph import Memberships, collected, surrounded
from trainers.loop import Lesson, Trainer
from trainers.metrics import mid_ranks_among, summary
from trainers.samples import Placed
from trainers.sequence_model import encoded, placed_sequences

VALIDATION_MAX: Final = 2048
TEST_MAX: Final = 8192
"""Questions, drawn by a seed that all runs share."""
AT_ONCE: Final = 256


@dataclass(frozen=True)
class Given:
    """A file, cut; what is known of its items without a graph, and which of their attributes are collections."""

    train: Ragged
    validation: Questions
    test: Questions
    features: ItemFeatures
    members: Memberships


@dataclass(frozen=True)
class Budget:
    """Of one run, and what it computes on."""

    steps: int
    seconds: float
    device: str = CPU
    precision: str = FLOAT32


def timed(paths: tuple[Path, ...], name: str, budget: Budget, seed: int) -> dict[str, float]:
    """What a process that was made for runs does: one, on one thread."""
    one_thread()
    return measured(read(paths), name, budget, seed=seed, clock=time.perf_counter)


@cache
def read(paths: tuple[Path, ...]) -> Given:
    """A `loo` file and its side data, read once. Raises `BadData`."""
    data = read_loo(paths)
    parts, random = split(data), np.random.default_rng(0)
    kept = ((parts.validation, VALIDATION_MAX), (parts.test, TEST_MAX))
    validation, test = (asked.take(np.sort(random.permutation(len(asked))[:most])) for asked, most in kept)
    return Given(parts.train, validation, test, features_of(data.catalogue, data.described), _memberships(data))


def _memberships(data: Loo) -> Memberships:
    """Each attribute that at least two items have is a collection of theirs."""
    rows = [(data.catalogue.rows[item], name) for item, names in data.described.attributes.items() for name in set(names)]
    rows = [(row, name) for row, name in rows if row < len(data.catalogue)]
    names, counts = np.unique([name for _, name in rows], return_counts=True) if rows else (np.zeros(0, dtype=str), np.zeros(0))
    kept = {str(name): place for place, name in enumerate(names[counts > 1].tolist())}
    chosen = np.array([(row, kept[name]) for row, name in rows if name in kept], dtype=np.int64).reshape(-1, 2)
    return Memberships(tuple(kept), items=chosen[:, 0], collections=chosen[:, 1])


def measured(given: Given, name: str, budget: Budget, *, seed: int, clock: Callable[[], float]) -> dict[str, float]:
    """HR@10 and NDCG@10 of UE and EE on the test, and what the run took. The caller's torch random state is left alone."""
    variant, events = VARIANTS[name], placed_sequences(given.train, given.features.ids, action=action_code())
    features = shown(given, variant, events)
    config = variant.config(_plan(given, features, budget, seed))
    model, began = Model.new(config.model, features.ids[: features.items], seed=seed), clock()
    lesson = Lesson(features, events, lambda model: ranks(model, features, given.validation, by_last_item=variant.by_last_item))
    trained = Trainer(config, clock=clock).run(model, lesson)
    users = summary(ranks(trained.model, features, given.test, by_last_item=variant.by_last_item))
    items = summary(ranks(trained.model, features, given.test, by_last_item=True))
    return {
        "UE_HR@10": users["HR@10"], "UE_NDCG@10": users["NDCG@10"], "EE_HR@10": items["HR@10"], "EE_NDCG@10": items["NDCG@10"],
        "steps": trained.steps, "best_step": trained.best_step, "seconds": clock() - began,
    }  # fmt: skip


def shown(given: Given, variant: Variant, events: Placed) -> ItemFeatures:
    """What the variant's tower may read: degree and neighbours from the training events alone."""
    features = given.features
    if "text" in variant.without:
        nothing = Ragged(np.zeros(0, dtype=np.int64), np.zeros(len(features) + 1, dtype=np.int64))
        features = replace(features, text=nothing)
    if "graph" in variant.without:
        return features
    width = planned_model(history_len=1, collections=False).neighbours_max
    room = np.full((len(features), width), -1, dtype=np.int64)
    features = surrounded(replace(features, neighbours=room, weights=np.zeros(room.shape, dtype=np.float32)), events.columns)
    return features if "collections" in variant.without else collected(features, given.members)


def ranks(model: Model, features: ItemFeatures, asked: Questions, *, by_last_item: bool) -> I64s:
    """Mid-ranks of the targets, asked by the user's vector or by that of the last item of the input."""
    vectors = model.embed_items(features)
    users = _last(vectors, asked.inputs) if by_last_item else encoded(model, vectors, asked.inputs, action=action_code())
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(users), AT_ONCE):
        part = asked.take(np.arange(start, min(start + AT_ONCE, len(users))))
        found.append(mid_ranks_among((users[start : start + AT_ONCE] @ vectors.T).astype(np.float64), part.targets, part.left_out))
    return np.concatenate(found)


def _last(vectors: F32s, inputs: Ragged) -> F32s:
    return vectors[inputs.values[inputs.offsets[1:] - 1]]


def _plan(given: Given, features: ItemFeatures, budget: Budget, seed: int) -> TrainConfig:
    lengths = np.diff(given.train.offsets)
    wanted = int(np.ceil(np.quantile(lengths, HISTORY_QUANTILE)))
    history_len = min(max(wanted, HISTORY_MIN), Shape().history_max)
    cut = int(np.ceil(lengths / history_len).sum())
    batch = max(1, round(STEP_POSITIONS * cut / max(1, len(given.train.values))))
    model = planned_model(history_len=history_len, collections=features.kinds is not None)
    plan = planned(model, seed=seed, batch=batch, steps=budget.steps, seconds=budget.seconds)
    return replace(plan, device=budget.device, precision=budget.precision)
