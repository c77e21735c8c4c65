"""The item tower: one vector per item from what it is (id, text, image, degree) and what surrounds it (neighbours).

OmniSage's (papers, 1.2): [CLS, own tokens, neighbours by relation and falling nearness] -> one transformer layer, each node type has its
own -> CLS -> MLP -> unit length. An item without an id row is embedded from the rest; in training ids are hidden at random, so that this
works. We differ: a missing neighbour is not heard at all, where theirs is a zero vector, so that relations nobody uses cost nothing; and
the id embedding and the text token are also added to the MLP's output, a short way past the layer (its worth was not measured apart).

    z = UnifiedEncoder(config, rows=len(ids) + 1)(ItemTensors.of(features, id_rows))      # (I, D), unit rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from encoders.aggregators import aggregator
from encoders.base import COLLECTION, ITEM, F32s, I64s, ItemFeatures
from encoders.config import ModelConfig
from encoders.layers import Mlp
from encoders.text import TEXT_ROWS

SHARE_MIN: Final = 1e-3


@dataclass(frozen=True)
class ItemTensors:
    """`ItemFeatures` as tensors, neighbours laid out as a model has places for them.

    id_rows (I,), 0 = no row of its own; log_share (I, N) log of each neighbour's part of its relation's weight; kinds (I,).
    """

    id_rows: Tensor
    text: Tensor
    offsets: Tensor
    log_degree: Tensor
    neighbours: Tensor
    log_share: Tensor
    image: Tensor | None
    kinds: Tensor

    @classmethod
    def of(cls, features: ItemFeatures, id_rows: I64s, widths: Sequence[int], device: torch.device) -> "ItemTensors":
        """Neighbour rows are moved up by one: 0 = none. Of a relation with more than `widths` has the farthest are cut, fewer filled up."""
        neighbours, weights = _laid_out(features, widths)
        kinds = np.zeros(len(id_rows), dtype=np.uint8) if features.kinds is None else features.kinds
        return cls(
            id_rows=torch.from_numpy(id_rows).to(device),
            text=torch.from_numpy(features.text.values).to(device),
            offsets=torch.from_numpy(features.text.offsets[:-1]).to(device),
            log_degree=torch.from_numpy(np.log1p(features.degree).astype(np.float32)).to(device),
            neighbours=torch.from_numpy(neighbours + 1).to(device),
            log_share=torch.from_numpy(np.log(weights + SHARE_MIN).astype(np.float32)).to(device),
            image=None if features.image is None else torch.from_numpy(features.image).to(device),
            kinds=torch.from_numpy(kinds).to(device),
        )


def _laid_out(features: ItemFeatures, widths: Sequence[int]) -> tuple[I64s, F32s]:
    """(I, sum of widths) neighbours, and their shares of their relation's weight."""
    rows, shares = [], []
    for relation, width in enumerate(widths):
        columns = features.by_relation(relation)
        near = features.neighbours[:, columns][:, :width]
        weights = np.where(near >= 0, features.weights[:, columns][:, :width], 0.0)
        room = ((0, 0), (0, width - near.shape[1]))
        rows.append(np.pad(near, room, constant_values=-1))
        shares.append(np.pad(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12), room))
    return np.concatenate(rows, axis=1), np.concatenate(shares, axis=1)


class UnifiedEncoder(nn.Module):
    """`rows` counts the id rows with row 0, which stays zero and stands for "no id"."""

    def __init__(self, config: ModelConfig, *, rows: int) -> None:
        super().__init__()
        dim = config.dim
        self.id_dropout, self.neighbour_dropout, self.cold_dropout = config.id_dropout, config.neighbour_dropout, config.cold_dropout
        self.image_dim = config.image_dim
        self.ids = nn.Embedding(rows, dim, padding_idx=0)
        self.words = nn.EmbeddingBag(TEXT_ROWS, dim, mode="mean")
        self.text = Mlp(dim, dim, dim_out=dim)
        self.degree = Mlp(1, dim, dim_out=dim)
        self.image = Mlp(config.image_dim, dim, dim_out=dim) if config.image_dim else None
        self.neighbour = Mlp(2 * dim, 2 * dim, dim_out=dim)
        self.share = nn.Parameter(torch.randn(dim) * 0.02)
        self.norm_text = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        kinds = (ITEM, COLLECTION) if config.collections_max else (ITEM,)
        self.aggregators = nn.ModuleList(aggregator(config) for _ in kinds)
        self.outs = nn.ModuleList(Mlp(dim, 2 * dim, dim_out=dim) for _ in kinds)
        nn.init.normal_(self.ids.weight, std=dim**-0.5)
        nn.init.normal_(self.words.weight, std=1.0)
        with torch.no_grad():
            self.ids.weight[0] = 0.0

    def forward(self, items: ItemTensors, asked: int | None = None) -> Float[Tensor, "A D"]:
        """Unit rows of the first `asked` items, or of all; the others are there as neighbours, and cost what a neighbour costs."""
        count = len(items.id_rows) if asked is None else asked
        warm = self._warm(items)
        ids = self.ids(self._some_hidden(items.id_rows) * warm)  # (I, D)
        text = self.norm_text(self.words(items.text, items.offsets))
        each = self._each(torch.cat([ids, text], dim=1))
        near = self._near(items, warm[:count])
        ids, degree = ids[:count], items.log_degree[:count] * warm[:count]
        own = torch.stack([ids, self.text(text[:count]), self._image(items, like=ids), self.degree(degree[:, None])], dim=1)
        if len(self.aggregators) == 1 or not bool(items.kinds[:count].any()):
            return self._joined(ITEM, own, each, near)
        out = torch.empty_like(ids)
        for kind in (ITEM, COLLECTION):
            chosen = torch.nonzero(items.kinds[:count] == kind)[:, 0]
            out = out.index_copy(0, chosen, self._joined(kind, own[chosen], each, near.of(chosen)))
        return out

    def _joined(self, kind: int, own: Tensor, each: Tensor, near: "_Near") -> Tensor:
        """(A, D) unit rows of nodes of one kind."""
        around = each[near.rows] + near.share[:, :, None] * self.share  # (A, N, D)
        z = self.aggregators[kind](self.dropout(own), around, near.rows > 0, near.places, near.share)
        return functional.normalize(self.outs[kind](z) + own[:, 0] + own[:, 1], dim=-1)

    def _warm(self, items: ItemTensors) -> Tensor:
        """(I,) 0 for items that show their content alone this time: a model that never saw such a one would push every newborn away."""
        if not self.training or self.cold_dropout == 0:
            return torch.ones_like(items.id_rows)
        return (torch.rand(items.id_rows.shape, device=items.id_rows.device) >= self.cold_dropout).long()

    def _some_hidden(self, id_rows: Tensor) -> Tensor:
        if not self.training or self.id_dropout == 0:
            return id_rows
        return id_rows * (torch.rand(id_rows.shape, device=id_rows.device) >= self.id_dropout)

    def _image(self, items: ItemTensors, *, like: Tensor) -> Tensor:
        if self.image is None or items.image is None:
            return torch.zeros_like(like)
        out: Tensor = self.image(items.image[: len(like)])
        return out

    def _each(self, features: Tensor) -> Tensor:
        """(1 + I, D) what each says as a neighbour, once a node and not once a place; row 0 is nobody."""
        return self.dropout(self.neighbour(torch.cat([torch.zeros_like(features[:1]), features])))  # type: ignore[no-any-return]

    def _near(self, items: ItemTensors, warm: Tensor) -> "_Near":
        """Who is heard; places where nobody is cost nothing."""
        rows = items.neighbours[: len(warm)] * warm[:, None]
        if self.training and self.neighbour_dropout:
            rows = rows * (torch.rand(rows.shape, device=rows.device) >= self.neighbour_dropout)
        places = torch.nonzero(rows.any(dim=0))[:, 0]
        return _Near(rows[:, places], items.log_share[: len(warm), places], places)


@dataclass(frozen=True)
class _Near:
    """rows (A, N) of `_each`, 0 = nobody; share (A, N) logs; places (N,) which of the configuration's places these are."""

    rows: Tensor
    share: Tensor
    places: Tensor

    def of(self, chosen: Tensor) -> "_Near":
        return _Near(self.rows[chosen], self.share[chosen], self.places)
