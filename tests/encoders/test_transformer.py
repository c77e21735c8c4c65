"""The encoder contract for the user encoder: batches, padding, causality, empty histories, gradients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from encoders.base import GAP_MS_MAX, HistoryBatch
from encoders.model import Model
from encoders.transformer import gap_features

Histories = Callable[..., HistoryBatch]


def outputs(model: Model, batch: HistoryBatch) -> Tensor:
    tensors = (torch.from_numpy(part) for part in (batch.item_vectors, batch.actions.astype(np.int64), batch.gaps_ms, batch.mask))
    found: Tensor = model.user(*tensors)
    return found.detach()


def test_users_are_unit_rows_and_eval_is_deterministic(model: Model, histories: Histories) -> None:
    users = model.encode_users(histories([3, 8, 0, 1]))
    assert users.shape == (4, 16) and users.dtype == np.float32
    assert np.allclose(np.linalg.norm(users, axis=1), 1, atol=1e-6)
    assert (users == model.encode_users(histories([3, 8, 0, 1]))).all()


def test_a_history_has_the_same_vector_alone_or_in_a_batch(model: Model, histories: Histories) -> None:
    batch = histories([3, 8, 0, 1])
    together = model.encode_users(batch)
    for row in range(4):
        alone = HistoryBatch(batch.item_vectors[[row]], batch.actions[[row]], batch.gaps_ms[[row]], batch.mask[[row]])
        assert np.abs(model.encode_users(alone)[0] - together[row]).max() < 1e-6


def test_left_padding_changes_nothing(model: Model, histories: Histories) -> None:
    batch = histories([3, 3])
    short = HistoryBatch(batch.item_vectors[:, 5:], batch.actions[:, 5:], batch.gaps_ms[:, 5:], batch.mask[:, 5:])
    garbage = replace(batch, item_vectors=np.where(batch.mask[:, :, None], batch.item_vectors, np.float32(99)))
    assert np.abs(model.encode_users(batch) - model.encode_users(short)).max() < 1e-6
    assert (model.encode_users(batch) == model.encode_users(garbage)).all()


def test_future_actions_change_nothing(model: Model, histories: Histories) -> None:
    before, other = histories([8], seed=1), histories([8], seed=2)
    for cut in range(1, 8):
        past = np.arange(8) < cut
        mixed = HistoryBatch(
            np.where(past[None, :, None], before.item_vectors, other.item_vectors),
            np.where(past, before.actions, other.actions),
            np.where(past, before.gaps_ms, other.gaps_ms),
            before.mask,
        )
        assert (outputs(model, mixed)[:, :cut] == outputs(model, before)[:, :cut]).all(), cut
        assert (outputs(model, mixed)[:, cut] != outputs(model, before)[:, cut]).any(), cut


def test_an_empty_history_is_finite_and_the_same_for_everyone(model: Model, histories: Histories) -> None:
    users = model.encode_users(histories([0, 0]))
    assert np.isfinite(users).all() and (users[0] == users[1]).all()


def test_order_actions_and_gaps_matter(model: Model, histories: Histories) -> None:
    batch = histories([6])
    base = model.encode_users(batch)
    turned = replace(batch, item_vectors=batch.item_vectors[:, ::-1].copy())
    for changed in (turned, replace(batch, actions=batch.actions + np.uint8(1)), replace(batch, gaps_ms=batch.gaps_ms * 0)):
        assert np.abs(model.encode_users(changed) - base).max() > 1e-4


def test_gradients_reach_every_parameter_and_the_items(model: Model, histories: Histories) -> None:
    batch = histories([8, 5])
    vectors = torch.from_numpy(batch.item_vectors).requires_grad_()
    out = model.user(vectors, torch.from_numpy(batch.actions).long(), torch.from_numpy(batch.gaps_ms), torch.from_numpy(batch.mask))
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in model.user.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert vectors.grad is not None and (vectors.grad[torch.from_numpy(batch.mask)].abs().sum(dim=1) > 0).all()


def test_a_gap_of_decades_or_below_zero_is_cut() -> None:
    gaps = gap_features(torch.tensor([[-5, 0, GAP_MS_MAX, 10**15]]))
    assert gaps[0, 0].tolist() == gaps[0, 1].tolist() == [0.0, 0.0]
    assert gaps[0, 2].tolist() == gaps[0, 3].tolist()
    assert gaps.max() < 1.5
