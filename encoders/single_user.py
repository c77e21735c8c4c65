"""One user, now: the causal transformer and the head for a single history, compiled, for the look-up that cannot wait.

The same numbers as `CausalTransformer` and `ResidualHead` (tested to 1e-5). What is not needed is not computed: the last layer asks one
query only, norms are folded into the matrices behind them, biases by distance are laid out once.

    user = PreparedUser(trunk, head); vector = user.encode(item_vectors, actions, gaps_ms)     # (D,), unit length
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from encoders.base import F32s, I64s, U8s
from encoders.heads import ResidualHead
from encoders.kernels import Layer, encoded
from encoders.layers import Block
from encoders.transformer import CausalTransformer


@dataclass(frozen=True)
class Affine:
    """x @ weight + bias."""

    weight: F32s
    bias: F32s

    @classmethod
    def of(cls, layer: nn.Linear, norm: nn.LayerNorm | None = None, *, scale: float = 1.0, scale_in: float = 1.0) -> "Affine":
        """The layer, after the norm's own scale and shift if one is given; `scale` multiplies the result, `scale_in` what comes in."""
        weight, bias = layer.weight.detach().double() * scale_in, layer.bias.detach().double()
        if norm is not None:
            bias = bias + weight @ norm.bias.detach().double()
            weight = weight * norm.weight.detach().double()
        return cls(np.ascontiguousarray((scale * weight).float().numpy().T), (scale * bias).float().numpy())


class PreparedUser:
    """Weights of one model version, laid out for `encode`; build it anew when the weights change."""

    def __init__(self, trunk: CausalTransformer, head: ResidualHead) -> None:
        with torch.inference_mode():
            self.history_len = trunk.history_len
            item = Affine.of(trunk.item, scale_in=trunk.item.in_features**0.5)
            start, actions = trunk.start.detach().numpy().copy(), trunk.action.weight.detach().numpy().copy()
            deaf = Affine(np.zeros((2, len(start)), dtype=np.float32), np.zeros_like(start))  # a trunk without a clock hears no gap
            self.entry = (_layer(item), start, actions, _layer(Affine.of(trunk.gap) if trunk.gap is not None else deaf))
            self.bias = trunk.attention_bias(trunk.history_len + 1).numpy().copy()
            blocks = [block for block in trunk.blocks if isinstance(block, Block)]
            self.heads, self.blocks = blocks[0].heads, tuple(_layers(block) for block in blocks)
            norm = (trunk.norm.weight.detach().numpy().copy(), trunk.norm.bias.detach().numpy().copy())
            self.leave = (norm, _layer(Affine.of(head.residual.inner)), _layer(Affine.of(head.residual.outer)))

    def encode(self, item_vectors: F32s, actions: U8s, gaps_ms: I64s) -> F32s:
        """(L, D) vectors, (L,) actions and gaps, oldest first, the newest `history_len` used -> (D,) unit length. L may be 0."""
        newest = slice(-self.history_len, None)
        vector: F32s = encoded(
            item_vectors[newest], actions[newest], gaps_ms[newest], self.entry, self.bias, self.heads, self.blocks, self.leave
        )
        return vector


def _layers(block: Block) -> tuple[Layer, ...]:
    """A block's five layers with its norms folded away."""
    scale = (block.query.in_features // block.heads) ** -0.5
    found = (
        Affine.of(block.query, block.norm_attention, scale=scale),
        Affine.of(block.key_value, block.norm_attention),
        Affine.of(block.joined),
        Affine.of(block.hidden.inner, block.norm_hidden),
        Affine.of(block.hidden.outer),
    )
    return tuple(_layer(each) for each in found)


def _layer(affine: Affine) -> Layer:
    return affine.weight, affine.bias
