"""The feature task: who is asked by what, and that it teaches the tower what words mean."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from encoders.base import ItemFeatures
from encoders.model import Model
from encoders.text import tokens
from trainers.config import TrainConfig
from trainers.features import FeatureQueries, feature_questions
from trainers.loop import Trainer


def features_of(count: int, *, image: bool = False) -> ItemFeatures:
    """Every second item has words; item n has its next two as neighbours, the last none; images of all but the first."""
    neighbours = np.array([[n + 1, n + 2] if n + 2 < count else [-1, -1] for n in range(count)])
    shown = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    shown[0] = 0.0
    return ItemFeatures(
        np.arange(1, count + 1, dtype=np.uint64),
        text=tokens([f"word{n}" if n % 2 == 0 else "" for n in range(count)], [{}] * count),
        degree=np.ones(count, dtype=np.float32),
        neighbours=neighbours.astype(np.int64),
        weights=np.ones((count, 2), dtype=np.float32),
        image=shown if image else None,
    )


def test_half_the_questions_show_a_neighbours_feature_and_all_ask_for_an_item_that_was_met() -> None:
    features, met = features_of(10), np.array([1, 4, 8, 9])
    shown, found = feature_questions(met, features, count=4000, generator=np.random.default_rng(0))
    assert set(found.tolist()) == set(met.tolist())
    assert (shown[np.isin(found, [8, 9])] == found[np.isin(found, [8, 9])]).all(), "who has no neighbour shows its own"
    own, near = (shown == found)[found == 4].mean(), [(shown == n)[found == 4].mean() for n in (5, 6)]
    assert 0.45 < own < 0.55 and all(0.2 < share < 0.3 for share in near)


def test_a_feature_asks_only_where_there_is_one(quick: TrainConfig) -> None:
    features = features_of(6, image=True)
    config = replace(quick.model, image_dim=4)
    model = Model.new(config, features.ids, seed=0)
    (text, by_text), (image, by_image) = FeatureQueries.new(config, features, seed=0)(model, np.arange(6))
    assert text.tolist() == [0, 2, 4] and image.tolist() == [1, 2, 3, 4, 5]
    for queries, rows in ((by_text, 3), (by_image, 5)):
        assert queries.shape == (rows, config.dim)
        assert torch.allclose(queries.norm(dim=1), torch.ones(rows), atol=1e-6)
    assert list(FeatureQueries.new(config, features, seed=0)(model, np.array([], dtype=np.int64))) == []


def test_the_feature_task_brings_items_of_the_same_words_together(rings: Callable[..., Any], quick: TrainConfig) -> None:
    world = rings(users=20, length=12)
    apart = {}
    for weight in (0.0, 1.0):
        config = replace(quick, steps_max=60, check_every=60, feature_weight=weight, next_weight=0.02, pairs=64)
        vectors = Trainer(config).train(world.columns, world.features).model.embed_items(world.features)
        ring = np.arange(len(vectors)) // 8
        alike = vectors @ vectors.T
        apart[weight] = alike[ring[:, None] == ring].mean() - alike[ring[:, None] != ring].mean()
    assert apart[1.0] > apart[0.0] + 0.05
