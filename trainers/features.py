"""The feature task: what an item, or a neighbour of it, shows must find the item among others (papers, 1.3, L_feat).

Teaches the tower what its features are worth where few engagements do; nothing of it is served. We differ: a hidden width of four times
the vector's, not 1,024, and the text's feature is the mean of its words' embeddings as the tower learns them.

    queries = FeatureQueries.new(model.config, features, seed=0); asked = feature_questions(met, features, count=256, generator=random)
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.base import I64s, ItemFeatures
from encoders.config import ModelConfig
from encoders.model import Model

LAYERS: Final = 4
WIDER: Final = 4
"""Times the vector's width."""
OF_A_NEIGHBOUR: Final = 0.5
"""Share of the questions that show a neighbour's feature; where there is a neighbour."""


class FeatureQueries(nn.Module):
    """One perceptron of four layers for each feature that some item has: text, image."""

    def __init__(self, config: ModelConfig, features: ItemFeatures) -> None:
        super().__init__()
        self._features = features
        self.text = _deep(config.dim, config.dim) if len(features.text.values) else None
        self.image = _deep(features.image.shape[1], config.dim) if features.image is not None else None

    @classmethod
    def new(cls, config: ModelConfig, features: ItemFeatures, *, seed: int) -> "FeatureQueries":
        """Fresh weights, the same for the same seed; the caller's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, features)

    def forward(self, model: Model, rows: I64s) -> Iterator[tuple[I64s, Tensor]]:
        """Per feature: which of these rows have it, and their queries, unit rows."""
        device = model.device
        if self.text is not None:
            words = self._features.text.take(rows)
            chosen = np.flatnonzero(np.diff(words.offsets))
            if len(chosen):
                values, offsets, described = (torch.from_numpy(part).to(device) for part in (words.values, words.offsets[:-1], chosen))
                bags = model.tower.words(values, offsets)[described]
                yield chosen, functional.normalize(self.text(model.tower.norm_text(bags)), dim=-1)
        if self.image is not None and self._features.image is not None:
            shown = self._features.image[rows]
            chosen = np.flatnonzero(shown.any(axis=1))
            if len(chosen):
                yield chosen, functional.normalize(self.image(torch.from_numpy(shown[chosen]).to(device)), dim=-1)


def feature_questions(met: I64s, features: ItemFeatures, *, count: int, generator: np.random.Generator) -> I64s:
    """(2, count): the row whose features are shown, and the row to find: of the items met, uniform; half by a neighbour of theirs."""
    found = generator.choice(met, size=count)
    around = features.neighbours[found]
    places = (around >= 0).sum(axis=1)
    slot = (generator.random(count) * places).astype(np.int64).clip(max=max(0, around.shape[1] - 1))
    by_neighbour = (generator.random(count) < OF_A_NEIGHBOUR) & (places > 0)
    near = np.sort(-around, axis=1)[np.arange(count), slot] * -1  # none, which is -1, comes last
    return np.stack([np.where(by_neighbour, near, found), found])


def _deep(dim_in: int, dim: int) -> nn.Sequential:
    widths = [dim_in, *[WIDER * dim] * (LAYERS - 1), dim]
    parts: list[nn.Module] = []
    for n, (before, after) in enumerate(pairwise(widths)):
        parts += [nn.ReLU()] if n else []
        parts.append(nn.Linear(before, after))
    return nn.Sequential(*parts)
