"""What makes one vector of a node's own tokens and its neighbours': a transformer layer read at CLS, or what it is compared with.

    z = aggregator(config)(own, around, shown, places, share)      # (A, D)

Own tokens (A, F, D) are always there; neighbours (A, N, D) where `shown` (A, N), each with the log of its share of the weight.
"""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from encoders.config import ModelConfig
from encoders.layers import Mlp

OWN: Final = 4
"""Tokens of a node itself: id, text, image, degree."""


def aggregator(config: ModelConfig) -> nn.Module:
    """One node type's, as the configuration says."""
    made: dict[str, type[nn.Module]] = {"transformer": ClsAggregator, "attention": AttentionAggregator, "mean": MeanAggregator}
    return made[config.aggregator](config)


class ClsAggregator(nn.Module):
    """OmniSage's: [CLS, own, neighbours by place] -> one layer -> CLS. Places have learned positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kinds = nn.Parameter(torch.randn(1 + OWN + sum(config.widths), config.dim) * 0.02)
        self.layer = ClsLayer(config.dim, config.item_heads, hidden=4 * config.dim)

    def forward(
        self, own: Float[Tensor, "A F D"], around: Float[Tensor, "A N D"], shown: Bool[Tensor, "A N"], places: Tensor, share: Tensor
    ) -> Float[Tensor, "A D"]:
        """`places` (N,): which place each column of neighbours is."""
        positions = torch.cat([self.kinds[1 : 1 + OWN], self.kinds[1 + OWN + places]])
        tokens = torch.cat([own, around], dim=1) + positions
        hidden = torch.cat([shown.new_zeros(len(own), 1 + OWN), ~shown], dim=1)
        out: Tensor = self.layer(self.kinds[0], tokens, hidden)
        return out


class AttentionAggregator(nn.Module):
    """A graph attention layer (GAT's additive score, one head): the node itself, and its neighbours by how well they suit it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.asking, self.asked = nn.Linear(config.dim, 1), nn.Linear(config.dim, 1)

    def forward(self, own: Tensor, around: Tensor, shown: Tensor, places: Tensor, share: Tensor) -> Tensor:
        """(A, D)."""
        each = self.value(torch.cat([own.sum(dim=1, keepdim=True), around], dim=1))  # (A, 1 + N, D), the node first
        scores = functional.leaky_relu(self.asking(each[:, :1]) + self.asked(each), 0.2)[:, :, 0]
        hidden = torch.cat([shown.new_zeros(len(own), 1), ~shown], dim=1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=1)
        out: Tensor = functional.elu((weights[:, :, None] * each).sum(dim=1))
        return out


class MeanAggregator(nn.Module):
    """PinSage's importance pooling: neighbours' mean by their share of the weight beside the node's own, through a perceptron."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.joined = Mlp(2 * config.dim, 2 * config.dim, dim_out=config.dim)

    def forward(self, own: Tensor, around: Tensor, shown: Tensor, places: Tensor, share: Tensor) -> Tensor:
        """(A, D)."""
        weights = share.exp() * shown
        near = (weights[:, :, None] * around).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        out: Tensor = self.joined(torch.cat([own.sum(dim=1), near], dim=1))
        return out


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

    def forward(self, cls: Float[Tensor, " D"], tokens: Float[Tensor, "I T D"], hidden: Bool[Tensor, "I S"]) -> Float[Tensor, "I D"]:
        """`hidden` (I, 1 + T): which of CLS and tokens are not heard."""
        items, _, dim = tokens.shape
        x = self.norm_attention(torch.cat([cls.expand(items, 1, dim), tokens], dim=1))  # (I, 1 + T, D)
        query = self.query(self.norm_attention(cls)).view(self.heads, 1, -1)  # (H, 1, D/H)
        folded = (query @ self.key.weight.view(self.heads, -1, dim))[:, 0]  # (H, D) (a key bias would move all logits alike: there is none)
        logits = (x @ folded.T * query.shape[-1] ** -0.5).masked_fill(hidden[:, :, None], float("-inf"))
        weights = logits.softmax(dim=1)  # (I, 1 + T, H)
        mixed = weights.transpose(1, 2) @ x  # (I, H, D)
        heard = torch.einsum("ihd,hed->ihe", mixed, self.value.weight.view(self.heads, -1, dim)).reshape(items, dim) + self.value.bias
        z = cls + self.joined(heard)
        out: Tensor = z + self.hidden(self.norm_hidden(z))
        return out
