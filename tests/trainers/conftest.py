"""A small world with a planted answer: items in rings, users who walk round one ring, a few of them jumping."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from encoders.base import I64s, ItemFeatures
from encoders.config import ModelConfig
from encoders.text import tokens
from trainers.config import TrainConfig
from trainers.samples import EventColumns, Placed

torch.set_num_threads(1)

RINGS, RING = 6, 8
SMALL = ModelConfig(dim=16, item_heads=2, history_len=8, neighbours_max=4, head_hidden=16, dropout=0.1)

QUICK = TrainConfig(
    model=SMALL,
    steps_max=250,
    seconds_max=600.0,
    batch_windows=32,
    learning_rate=5e-3,
    warm_up_steps=10,
    check_every=50,
    exclude_seen=False,
    shuffle_ties=False,
    uniform=16,
    pairs=16,
)
"""Seconds on one core; walks come round again, so what was seen stays a candidate."""


@dataclass(frozen=True)
class Rings:
    """Events in log order, the items' features, and each event's item row."""

    columns: EventColumns
    features: ItemFeatures
    rows: I64s

    @property
    def events(self) -> Placed:
        return Placed(self.columns, self.rows)


def built_rings(*, users: int = 60, length: int = 24, forward: int = 1, seed: int = 0) -> Rings:
    """Users walk round their rings by turns."""
    random = np.random.default_rng(seed)
    walks = random.integers(0, RING, size=(users, 1)) + forward * np.arange(length) + (random.random((users, length)) < 0.1)
    rows = (random.integers(0, RINGS, size=(users, 1)) * RING + walks % RING).T.ravel()  # users take turns in the log
    times = np.repeat(np.arange(length) * 60_000, users) + np.tile(np.arange(users), length)
    ids = np.arange(1, RINGS * RING + 1, dtype=np.uint64)
    features = ItemFeatures(
        ids,
        text=tokens([f"item {row}" for row in range(len(ids))], [{"ring": row // RING} for row in range(len(ids))]),
        degree=np.bincount(rows, minlength=len(ids)).astype(np.float32),
        neighbours=np.full((len(ids), 4), -1, dtype=np.int64),
        weights=np.zeros((len(ids), 4), dtype=np.float32),
    )
    actions = np.ones(users * length, dtype=np.uint8)
    columns = EventColumns(np.tile(np.arange(1, users + 1, dtype=np.uint64), length), ids[rows], actions, times.astype(np.int64))
    return Rings(columns, features, rows.astype(np.int64))


@pytest.fixture(scope="session")
def rings() -> Callable[..., Rings]:
    return built_rings


@pytest.fixture(scope="session")
def quick() -> TrainConfig:
    return QUICK
