"""The item tower: one vector per item from what it is (id, text, image, degree) and what surrounds it (neighbours).

OmniSage's aggregator (papers, 1.2), one node type: [CLS, own tokens, neighbours by falling weight] -> one transformer layer -> CLS -> MLP
-> unit length. An item without an id row is embedded from the rest; in training ids are hidden at random, so that this works. We differ:
the id embedding and the text token are also added to the MLP's output, a short way past the layer (its worth was not measured apart).

    z = UnifiedEncoder(config, rows=len(ids) + 1)(ItemTensors.of(features, id_rows))      # (I, D), unit rows
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from encoders.base import I64s, ItemFeatures
from encoders.config import ModelConfig
from encoders.layers import Mlp
from encoders.text import TEXT_ROWS


@dataclass(frozen=True)
class ItemTensors:
    """`ItemFeatures` as tensors. id_rows (I,), 0 = no row of its own; share (I, N) log of each neighbour's part of the weight."""

    id_rows: Tensor
    text: Tensor
    offsets: Tensor
    log_degree: Tensor
    neighbours: Tensor
    log_share: Tensor
    image: Tensor | None

    @classmethod
    def of(cls, features: ItemFeatures, id_rows: I64s) -> "ItemTensors":
        """Neighbour rows are moved up by one: 0 = none."""
        weights = np.where(features.neighbours >= 0, features.weights, 0.0)
        share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return cls(
            id_rows=torch.from_numpy(id_rows),
            text=torch.from_numpy(features.text.values),
            offsets=torch.from_numpy(features.text.offsets[:-1]),
            log_degree=torch.from_numpy(np.log1p(features.degree).astype(np.float32)),
            neighbours=torch.from_numpy(features.neighbours + 1),
            log_share=torch.from_numpy(np.log(share + 1e-3).astype(np.float32)),
            image=None if features.image is None else torch.from_numpy(features.image),
        )


class UnifiedEncoder(nn.Module):
    """`rows` counts the id rows with row 0, which stays zero and stands for "no id"."""

    def __init__(self, config: ModelConfig, *, rows: int) -> None:
        super().__init__()
        dim = config.dim
        self.id_dropout, self.neighbour_dropout, self.cold_dropout = config.id_dropout, config.neighbour_dropout, config.cold_dropout
        self.neighbours_max, self.image_dim = config.neighbours_max, config.image_dim
        self.ids = nn.Embedding(rows, dim, padding_idx=0)
        self.words = nn.EmbeddingBag(TEXT_ROWS, dim, mode="mean")
        self.text = Mlp(dim, dim, dim_out=dim)
        self.degree = Mlp(1, dim, dim_out=dim)
        self.image = Mlp(config.image_dim, dim, dim_out=dim) if config.image_dim else None
        self.neighbour = Mlp(2 * dim, 2 * dim, dim_out=dim)
        self.share = nn.Parameter(torch.randn(dim) * 0.02)
        self.kinds = nn.Parameter(torch.randn(5 + config.neighbours_max, dim) * 0.02)
        self.norm_text = nn.LayerNorm(dim)
        self.layer = ClsLayer(dim, config.item_heads, hidden=4 * dim)
        self.dropout = nn.Dropout(config.dropout)
        self.out = Mlp(dim, 2 * dim, dim_out=dim)
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
        around = self._neighbours(torch.cat([ids, text], dim=1), items, warm[:count])  # (A, N, D)
        ids, degree = ids[:count], items.log_degree[:count] * warm[:count]
        own = [ids, self.text(text[:count]), self._image(items, like=ids), self.degree(degree[:, None])]
        tokens = torch.cat([self.dropout(torch.stack(own, dim=1)), around], dim=1) + self.kinds[1:]  # (A, F + N, D)
        return functional.normalize(self.out(self.layer(self.kinds[0], tokens)) + ids + own[1], dim=-1)

    def _warm(self, items: ItemTensors) -> Tensor:
        """(I,) 0 for items that show their content alone this time: a model that never saw such a one would push every newborn away."""
        if not self.training or self.cold_dropout == 0:
            return torch.ones_like(items.id_rows)
        return (torch.rand(items.id_rows.shape) >= self.cold_dropout).long()

    def _some_hidden(self, id_rows: Tensor) -> Tensor:
        if not self.training or self.id_dropout == 0:
            return id_rows
        return id_rows * (torch.rand(id_rows.shape) >= self.id_dropout)

    def _image(self, items: ItemTensors, *, like: Tensor) -> Tensor:
        if self.image is None or items.image is None:
            return torch.zeros_like(like)
        out: Tensor = self.image(items.image[: len(like)])
        return out

    def _neighbours(self, features: Tensor, items: ItemTensors, warm: Tensor) -> Tensor:
        """Each neighbour by its own features and its share of the weight; a missing one is all zeros before the perceptron."""
        count, places = len(warm), (0, self.neighbours_max - items.neighbours.shape[1])  # fewer are filled up, more are cut
        rows, share = functional.pad(items.neighbours[:count], places), functional.pad(items.log_share[:count], places)
        rows = rows * warm[:, None]
        if self.training and self.neighbour_dropout:
            rows = rows * (torch.rand(rows.shape) >= self.neighbour_dropout)
        each = self.dropout(self.neighbour(torch.cat([torch.zeros_like(features[:1]), features])))  # once an item, not once a place
        seen = each[rows]  # (A, N, D)
        around: Tensor = seen + (share * (rows > 0))[:, :, None] * self.share
        return around


class ClsLayer(nn.Module):
    """One pre-norm transformer layer of which only CLS is read; as CLS is the same for every item, so is its query.

    So the query is folded into the key weights, and values are mixed before they are projected: per item H·D instead of D·D operations a
    token. Equal to the whole layer read at CLS (tested), CLS itself among the keys.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_hidden = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.joined = (
            nn.Linear(dim, dim, bias=name != "key") for name in ("query", "key", "value", "joined")
        )
        self.hidden = Mlp(dim, hidden, dim_out=dim)

    def forward(self, cls: Float[Tensor, " D"], tokens: Float[Tensor, "I T D"]) -> Float[Tensor, "I D"]:
        items, _, dim = tokens.shape
        x = self.norm_attention(torch.cat([cls.expand(items, 1, dim), tokens], dim=1))  # (I, 1 + T, D)
        query = self.query(self.norm_attention(cls)).view(self.heads, 1, -1)  # (H, 1, D/H)
        folded = (query @ self.key.weight.view(self.heads, -1, dim))[:, 0]  # (H, D) (a key bias would move all logits alike: there is none)
        weights = (x @ folded.T * query.shape[-1] ** -0.5).softmax(dim=1)  # (I, 1 + T, H)
        mixed = weights.transpose(1, 2) @ x  # (I, H, D)
        heard = torch.einsum("ihd,hed->ihe", mixed, self.value.weight.view(self.heads, -1, dim)).reshape(items, dim) + self.value.bias
        z = cls + self.joined(heard)
        out: Tensor = z + self.hidden(self.norm_hidden(z))
        return out
