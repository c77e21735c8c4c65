"""The tower without surroundings: an id row and text, nothing that is counted; and the user encoder without a clock."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from encoders.base import HistoryBatch, ItemFeatures, Ragged
from encoders.config import ModelConfig
from encoders.model import CheckpointError, Model


@pytest.fixture
def plain(config: ModelConfig, catalogue: Callable[..., ItemFeatures]) -> Model:
    """Knows ten of the twelve items; no surroundings, no clock."""
    return Model.new(replace(config, surroundings=False, clock=False), catalogue().ids[:10], seed=1)


def without_text(features: ItemFeatures, row: int) -> ItemFeatures:
    parts = [
        np.zeros(0, dtype=np.int64) if at == row else features.text.values[begin:end]
        for at, (begin, end) in enumerate(zip(features.text.offsets[:-1], features.text.offsets[1:], strict=True))
    ]
    return replace(features, text=Ragged(np.concatenate(parts), np.cumsum([0, *map(len, parts)])))


def test_counts_and_neighbours_move_no_vector(plain: Model, catalogue: Callable[..., ItemFeatures]) -> None:
    features = catalogue()
    vectors = plain.embed_items(features)
    other = replace(features, degree=features.degree + 7, neighbours=np.full_like(features.neighbours, -1))
    assert (plain.embed_items(other) == vectors).all()
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    one_by_one = np.concatenate([plain.embed_items(features, np.array([row])) for row in range(12)])
    assert np.abs(one_by_one - vectors).max() < 1e-6


def test_a_newborn_has_its_texts_vector_and_with_neither_none(plain: Model, catalogue: Callable[..., ItemFeatures]) -> None:
    features = catalogue()
    vectors = plain.embed_items(features)
    assert np.linalg.norm(vectors[11]) == pytest.approx(1, abs=1e-6), "no id row, but a title"
    bare = plain.embed_items(without_text(features, 11))
    assert (bare[11] == 0).all() and np.abs(bare[:11] - vectors[:11]).max() < 1e-6
    nothing = replace(features, text=Ragged(np.zeros(0, dtype=np.int64), np.zeros(13, dtype=np.int64)))
    ids = plain.tower.ids.weight.detach()[1:11]
    assert np.abs(plain.embed_items(nothing)[:10] - torch.nn.functional.normalize(ids, dim=1).numpy()).max() < 1e-6


def test_in_training_ids_hide_where_there_is_text_only(catalogue: Callable[..., ItemFeatures], config: ModelConfig) -> None:
    hiding = replace(config, surroundings=False, id_dropout=0.5, cold_dropout=0.2)
    model, features = Model.new(hiding, catalogue().ids, seed=0).train(), without_text(catalogue(), 3)
    torch.manual_seed(0)
    drawn = torch.stack([model.tower(model.item_tensors(features)) for _ in range(8)]).detach()
    still = (drawn == drawn[0]).all(dim=2).all(dim=0)
    assert still[3] and not still.all()


def test_without_a_clock_gaps_are_not_heard_and_compiled_equals_torch(plain: Model, histories: Callable[..., HistoryBatch]) -> None:
    batch = histories([8, 3, 0])
    users = plain.encode_users(batch)
    assert (plain.encode_users(replace(batch, gaps_ms=np.zeros_like(batch.gaps_ms))) == users).all()
    for row, length in enumerate((8, 3, 0)):
        kept = slice(8 - length, 8)
        for now in (10**12, 10**13):
            times = np.arange(length, dtype=np.int64) * 10**6
            user = plain.encode_user(batch.item_vectors[row, kept], batch.actions[row, kept], times, now)
            assert np.abs(user - users[row]).max() < 1e-5


def test_it_comes_back_from_bytes_and_not_as_another_kind(plain: Model, catalogue: Callable[..., ItemFeatures]) -> None:
    back = Model.from_bytes(plain.to_bytes())
    assert back.config == plain.config and (back.embed_items(catalogue()) == plain.embed_items(catalogue())).all()
    assert back.trunk_digest() == plain.trunk_digest()
    plain.config = replace(plain.config, surroundings=True)
    with pytest.raises(CheckpointError, match="do not fit"):
        Model.from_bytes(plain.to_bytes())
