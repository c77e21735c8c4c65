"""Small catalogues and histories with every kind of gap in them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from encoders.base import HistoryBatch, ItemFeatures
from encoders.config import ModelConfig
from encoders.model import Model
from encoders.text import tokens

torch.set_num_threads(1)

SMALL = ModelConfig(dim=16, item_heads=2, history_len=8, neighbours_max=3, head_hidden=8)


@pytest.fixture
def config() -> ModelConfig:
    return SMALL


@pytest.fixture
def catalogue() -> Callable[..., ItemFeatures]:
    def build(items: int = 12, *, image_dim: int = 0, seed: int = 0) -> ItemFeatures:
        random = np.random.default_rng(seed)
        neighbours = random.integers(-1, items, size=(items, 3))
        return ItemFeatures(
            ids=np.arange(100, 100 + items, dtype=np.uint64),
            text=tokens(
                [f"title {row % 5}" if row else "" for row in range(items)], [{"genre": ["a", "b"][row % 2]} for row in range(items)]
            ),
            degree=random.integers(0, 50, size=items).astype(np.float32),
            neighbours=neighbours,
            weights=np.where(neighbours >= 0, random.random((items, 3)), 0).astype(np.float32),
            image=random.normal(size=(items, image_dim)).astype(np.float32) if image_dim else None,
        )

    return build


@pytest.fixture
def histories() -> Callable[..., HistoryBatch]:
    def build(lengths: list[int], *, dim: int = 16, length: int = 8, seed: int = 0) -> HistoryBatch:
        random = np.random.default_rng(seed)
        vectors = random.normal(size=(len(lengths), length, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        mask = np.arange(length)[None, :] >= length - np.array(lengths)[:, None]
        gaps = random.integers(0, 10**8, size=mask.shape)
        return HistoryBatch(vectors, random.integers(0, 9, size=mask.shape).astype(np.uint8), gaps, mask)

    return build


@pytest.fixture
def model(catalogue: Callable[..., ItemFeatures]) -> Model:
    """Knows the first ten of the twelve items; its head has been trained a little."""
    built = Model.new(SMALL, catalogue().ids[:10], seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.head.residual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built
