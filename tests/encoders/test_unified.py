"""The encoder contract for the item tower, and its folded layer against a whole one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from encoders.aggregators import ClsLayer
from encoders.base import ItemFeatures
from encoders.config import AGGREGATORS, ModelConfig
from encoders.model import Model
from encoders.unified import UnifiedEncoder

Catalogue = Callable[..., ItemFeatures]


def test_rows_have_unit_length_and_eval_is_deterministic(model: Model, catalogue: Catalogue) -> None:
    vectors = model.embed_items(catalogue())
    assert vectors.shape == (12, 16) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors == model.embed_items(catalogue())).all()


def test_an_item_has_the_same_vector_alone_or_in_a_batch(model: Model, catalogue: Catalogue) -> None:
    features = catalogue()
    together = model.embed_items(features)
    alone = np.concatenate([model.embed_items(features, np.array([row])) for row in range(len(features))])
    assert np.abs(together - alone).max() < 1e-6


def test_every_part_of_an_item_moves_its_vector(catalogue: Catalogue, config: ModelConfig) -> None:
    features = catalogue(image_dim=4)
    model = Model.new(replace(config, image_dim=4), features.ids, seed=0)
    base = model.embed_items(features)
    assert features.image is not None
    others = {
        "degree": replace(features, degree=features.degree + 100),
        "image": replace(features, image=features.image + 1),
        "neighbours": replace(features, neighbours=np.full_like(features.neighbours, -1)),
        "weights": replace(features, weights=features.weights[:, ::-1] + np.float32(1)),
        "text": replace(features, text=features.text.take(np.arange(12)[::-1])),
        "ids": replace(features, ids=features.ids[::-1].copy()),
    }
    for name, changed in others.items():
        assert np.abs(model.embed_items(changed) - base).max() > 1e-4, name


def test_an_item_without_an_id_row_is_embedded_from_its_content(model: Model, catalogue: Catalogue) -> None:
    features = catalogue()
    assert model.id_rows(features.ids).tolist() == [*range(1, 11), 0, 0]
    renamed = replace(features, ids=np.concatenate([features.ids[:10], np.array([7, 8], dtype=np.uint64)]))
    assert (model.embed_items(features) == model.embed_items(renamed)).all()
    assert np.isfinite(model.embed_items(features)).all()


def test_fewer_neighbours_than_places_are_missing_ones(model: Model, catalogue: Catalogue) -> None:
    features = catalogue()
    short = replace(features, neighbours=features.neighbours[:, :2], weights=features.weights[:, :2])
    padded = replace(
        features,
        neighbours=np.where(np.arange(3) < 2, features.neighbours, -1),
        weights=np.where(np.arange(3) < 2, features.weights, 0).astype(np.float32),
    )
    assert np.abs(model.embed_items(short) - model.embed_items(padded)).max() < 1e-6


@pytest.fixture
def typed(catalogue: Catalogue) -> ItemFeatures:
    """Twelve items and three collections: two near places, one for siblings, one for collections, one shown next to it."""
    plain = catalogue(15)
    random = np.random.default_rng(1)
    columns = [random.integers(-1, 12, size=(15, 3)), random.integers(11, 15, size=(15, 1)), random.integers(-1, 12, size=(15, 1))]
    columns[1][columns[1] == 11] = -1
    neighbours = np.concatenate(columns, axis=1)
    kinds = (np.arange(15) >= 12).astype(np.uint8)
    weights = np.where(neighbours >= 0, random.random(neighbours.shape), 0).astype(np.float32)
    return replace(plain, neighbours=neighbours, weights=weights, kinds=kinds, widths=(2, 1, 1, 1))


TYPED: dict[str, Any] = {"neighbours_max": 2, "siblings_max": 1, "collections_max": 1, "shown_max": 1}


def test_a_neighbour_says_another_thing_by_another_relation(config: ModelConfig, typed: ItemFeatures) -> None:
    model = Model.new(replace(config, **TYPED), typed.ids, seed=0)
    alone = replace(typed, neighbours=np.full_like(typed.neighbours, -1))
    found = []
    for column in (0, 1, 2, 4):
        one = alone.neighbours.copy()
        one[0, column] = 5
        found.append(model.embed_items(replace(alone, neighbours=one, weights=np.ones_like(typed.weights)))[0])
    assert all(np.abs(first - second).max() > 1e-4 for n, first in enumerate(found) for second in found[:n])


def test_places_where_nobody_is_are_not_heard(config: ModelConfig, typed: ItemFeatures) -> None:
    """So a batch with a relation and one without it give an item the same vector."""
    model = Model.new(replace(config, **TYPED), typed.ids, seed=0)
    together = model.embed_items(typed, np.arange(15))
    for row in range(15):
        assert np.abs(model.embed_items(typed, np.array([row])) - together[row]).max() < 1e-6


def test_collections_have_an_aggregator_of_their_own(config: ModelConfig, typed: ItemFeatures) -> None:
    model = Model.new(replace(config, **TYPED), typed.ids, seed=0)
    items, before = model.embed_items(typed), model.embed_items(typed, np.arange(15))
    assert len(items) == 12, "all items, and no collection"
    with torch.no_grad():
        for parameter in model.tower.get_submodule("aggregators.1").parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    after = model.embed_items(typed, np.arange(15))
    assert (after[:12] == before[:12]).all() and np.abs(after[12:] - before[12:]).max() > 1e-4
    renamed = replace(typed, text=typed.text.take(np.array([*range(12), 0, 0, 0])))
    assert np.abs(model.embed_items(renamed)[typed.neighbours[:12, 3] >= 0] - items[typed.neighbours[:12, 3] >= 0]).max() > 1e-4


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_every_aggregator_gives_unit_rows_and_hears_neighbours_but_not_missing_ones(
    config: ModelConfig, typed: ItemFeatures, aggregator: str
) -> None:
    model = Model.new(replace(config, **TYPED, aggregator=aggregator), typed.ids, seed=0)
    vectors = model.embed_items(typed)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    lonely = np.flatnonzero((typed.neighbours[:12] < 0).all(axis=1))
    moved = replace(typed, neighbours=np.where(typed.neighbours >= 0, (typed.neighbours + 1) % 12, -1))
    change = np.abs(model.embed_items(moved) - vectors).max(axis=1)
    assert (np.delete(change, lonely) > 1e-5).all()
    heavier = replace(typed, weights=np.where(typed.neighbours >= 0, typed.weights, 9).astype(np.float32))
    assert (model.embed_items(heavier) == vectors).all()


@pytest.mark.parametrize("image_dim", [0, 4])
def test_gradients_reach_every_parameter(catalogue: Catalogue, config: ModelConfig, image_dim: int) -> None:
    features = catalogue(image_dim=image_dim)
    model = Model.new(replace(config, image_dim=image_dim), features.ids, seed=0)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32))
    (model.tower(model.item_tensors(features)) * weights).sum().backward()
    for name, parameter in model.tower.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    grad = model.tower.ids.weight.grad
    assert grad is not None and (grad[0] == 0).all(), "row 0 is nobody's"


def test_training_hides_ids_at_random(catalogue: Catalogue, config: ModelConfig) -> None:
    tower = UnifiedEncoder(replace(config, id_dropout=0.5), rows=1001)
    rows = torch.arange(1, 1001)
    hidden = tower.train()._some_hidden(rows) == 0
    assert 400 < int(hidden.sum()) < 600
    assert (tower.eval()._some_hidden(rows) == rows).all()


def test_the_folded_layer_equals_a_whole_one_read_at_cls() -> None:
    """Oracle: torch's own multi-head attention on the same weights, every position asked."""
    torch.manual_seed(0)
    layer = ClsLayer(16, 4, hidden=32).double()
    cls, tokens, hidden = torch.randn(16).double(), torch.randn(5, 7, 16).double(), torch.rand(5, 8) < 0.3
    hidden[:, 0] = False
    oracle = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.zeros(16).double(), layer.value.bias]))
        oracle.out_proj.weight.copy_(layer.joined.weight)
        oracle.out_proj.bias.copy_(layer.joined.bias)
        x = torch.cat([cls.expand(5, 1, 16), tokens], dim=1)
        normed = layer.norm_attention(x)
        whole = x + oracle(normed, normed, normed, key_padding_mask=hidden, need_weights=False)[0]
        whole = whole + layer.hidden(layer.norm_hidden(whole))
        assert (layer(cls, tokens, hidden) - whole[:, 0]).abs().max() < 1e-12
