"""Validation ranks against look-ups one by one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from encoders.model import Model
from trainers.config import TrainConfig
from trainers.metrics import mid_ranks
from trainers.samples import windows
from trainers.validation import validation_ranks


def test_ranks_equal_those_of_look_ups_one_by_one(rings: Callable[..., Any], quick: TrainConfig) -> None:
    """Oracle: the single-user path, event by event, where a window and a whole history are the same (short users)."""
    world = rings(users=20, length=6)
    model = Model.new(quick.model, world.features.ids, seed=0)
    asked = np.arange(120) >= 60
    cut = windows(world.columns, 8, asked=asked)
    ranks = validation_ranks(model, world.features, world.events, asked=cut)
    vectors = model.embed_items(world.features)
    expected = []
    for event in cut.targets[cut.targets >= 0]:
        past = np.flatnonzero((world.columns.users == world.columns.users[event]) & (np.arange(120) < event))
        times, actions = world.columns.ts_ms[past], world.columns.actions[past]
        user = model.encode_user(vectors[world.rows[past]], actions, times, int(world.columns.ts_ms[event]))
        scores = vectors.astype(np.float64) @ user
        target = world.rows[event : event + 1]
        had = np.isin(target, world.rows[past])[0]
        scores[world.rows[past]] = np.nan
        expected.append(len(vectors) if had else int(mid_ranks(scores[None], target)[0]))
    assert len(ranks) == 60
    assert (np.abs(ranks - expected) <= 1).all() and (ranks == expected).mean() > 0.9  # float32 sums differ in the last bits


def test_where_people_come_back_what_was_seen_is_a_candidate(rings: Callable[..., Any], quick: TrainConfig) -> None:
    world = rings(users=4, length=20)
    model = Model.new(quick.model, world.features.ids, seed=0)
    cut = windows(world.columns, 8, asked=np.arange(80) >= 60)
    without = validation_ranks(model, world.features, world.events, asked=cut)
    among_all = validation_ranks(model, world.features, world.events, asked=cut, exclude_seen=False)
    assert (without == 48).mean() > 0.9, "after a whole round everything has been seen"
    assert (among_all < 48).any() and (among_all >= 1).all()


def test_nothing_asked_gives_no_ranks(rings: Callable[..., Any], quick: TrainConfig) -> None:
    world = rings(users=2, length=6)
    cut = windows(world.columns, 8, asked=np.zeros(12, dtype=bool))
    model = Model.new(quick.model, world.features.ids, seed=0)
    assert len(validation_ranks(model, world.features, world.events, asked=cut)) == 0
