"""The compiled path for one user against torch, and how long it takes."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from encoders.base import HistoryBatch
from encoders.config import ModelConfig
from encoders.model import Model


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8])
def test_one_user_compiled_equals_torch(model: Model, histories: Callable[..., HistoryBatch], length: int) -> None:
    batch = histories([length], seed=length)
    kept = slice(8 - length, 8)
    ts_ms = np.cumsum(np.concatenate([[10**12], batch.gaps_ms[0, kept]]))
    user = model.encode_user(batch.item_vectors[0, kept], batch.actions[0, kept], ts_ms[:-1], int(ts_ms[-1]))
    assert user.shape == (16,) and user.dtype == np.float32
    assert np.abs(user - model.encode_users(batch)[0]).max() < 1e-5


def test_only_the_newest_actions_count(model: Model, histories: Callable[..., HistoryBatch]) -> None:
    batch = histories([20], length=20)
    ts_ms = np.arange(20) * 1000
    whole = model.encode_user(batch.item_vectors[0], batch.actions[0], ts_ms, 20_000)
    newest = model.encode_user(batch.item_vectors[0, 12:], batch.actions[0, 12:], ts_ms[12:], 20_000)
    assert (whole == newest).all()


def test_new_weights_are_noticed(model: Model, histories: Callable[..., HistoryBatch]) -> None:
    batch = histories([8])

    def asked(of: Model) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return of.encode_user(batch.item_vectors[0], batch.actions[0], np.arange(8) * 1000, 9000)

    before = asked(model)
    identity = model.with_head(Model.new(model.config, model.ids, seed=0).head.state_dict())
    assert (asked(identity) != before).any() and (asked(model) == before).all()
    with torch.no_grad():
        model.train().user.start.add_(1.0)
    assert (asked(model.eval()) != before).any()


def test_a_lookup_sized_history_takes_little_time() -> None:
    """The aim is 0.6 ms at the median on one idle thread; the floor leaves room for a busy machine."""
    model = Model.new(ModelConfig(), np.arange(1, 9, dtype=np.uint64), seed=0)
    vectors = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    ts_ms, actions, taken = np.arange(64) * 1000, np.ones(64, dtype=np.uint8), []
    for _ in range(60):
        began = time.perf_counter()
        model.encode_user(vectors, actions, ts_ms, 64_000)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 2e-3
