"""Batches: every event once a pass, like lengths together, and a place that can be gone back to."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainers.batches import Batches
from trainers.config import TrainConfig
from trainers.samples import EventColumns


@pytest.fixture
def uneven() -> EventColumns:
    """Forty users, the n-th with n events."""
    users = np.repeat(np.arange(1, 41, dtype=np.uint64), np.arange(1, 41))
    return EventColumns(users, users, np.ones(len(users), dtype=np.uint8), np.arange(len(users)))


@pytest.mark.parametrize("shuffle_ties", [False, True])
def test_a_pass_asks_every_event_once(uneven: EventColumns, quick: TrainConfig, shuffle_ties: bool) -> None:
    batches = Batches(uneven, replace(quick, batch_windows=5, shuffle_ties=shuffle_ties))
    for _ in range(2):
        first = next(batches)
        cuts = [first, *(next(batches) for _ in range(batches.steps() - 1))]
        asked = np.concatenate([cut.targets[cut.targets >= 0] for cut in cuts])
        assert sorted(asked.tolist()) == list(range(len(uneven)))


def test_like_lengths_share_a_batch(uneven: EventColumns, quick: TrainConfig) -> None:
    config = replace(quick, batch_windows=4, model=replace(quick.model, history_len=40))

    batches = Batches(uneven, config)
    for _ in range(batches.steps()):
        lengths = next(batches).lengths()
        assert lengths.max() - lengths.min() < 4, "of lengths 1 to 40, four neighbours"


def test_it_goes_on_where_its_state_was_taken(rings: Callable[..., Any], quick: TrainConfig) -> None:
    columns = rings(users=20, length=12).columns
    for shuffle_ties in (False, True):
        config = replace(quick, batch_windows=3, shuffle_ties=shuffle_ties)
        batches, other = Batches(columns, config), Batches(columns, config)
        for _ in range(batches.steps() + 2):
            next(batches)
        other.go_on(json.loads(json.dumps(batches.state())))
        for _ in range(batches.steps() + 2):
            expected, found = next(batches), next(other)
            assert (expected.inputs == found.inputs).all() and (expected.targets == found.targets).all()


def test_nothing_to_learn_is_said(quick: TrainConfig) -> None:
    nothing = np.zeros(0, dtype=np.uint64)
    with pytest.raises(ValueError, match="no event"):
        next(Batches(EventColumns(nothing, nothing, nothing.astype(np.uint8), nothing.astype(np.int64)), quick))
