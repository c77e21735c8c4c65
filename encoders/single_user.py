"""A user encoder laid out for one history at a time: norms are folded into the matrices behind them, biases by distance written out.

What asks it is `prepared.py`; the same numbers as `CausalTransformer` and `ResidualHead` (tested to 1e-5).

    user = prepared(trunk, head); vector = user.encode(item_vectors, actions, ts_ms, now_ms)     # (D,), unit length
"""

import numpy as np
import torch
from torch import nn

from encoders.base import F32s
from encoders.heads import ResidualHead
from encoders.layers import Block
from encoders.prepared import PreparedUser
from encoders.transformer import CausalTransformer


def prepared(trunk: CausalTransformer, head: ResidualHead) -> PreparedUser:
    """The weights, which are on the CPU, as they are now; to be made anew when they change."""
    with torch.inference_mode():
        bias = trunk.attention_bias(trunk.history_len + 1).numpy().copy()
        parts = [*_entry(trunk), *_leave(trunk, head)]
        for block in trunk.blocks:
            assert isinstance(block, Block)
            parts += _block(block)
    ends = np.cumsum([part.size for part in parts])
    places = np.array([(end - part.size, len(part), part.shape[1]) for end, part in zip(ends, parts, strict=True)])
    return PreparedUser(trunk.history_len, np.concatenate([part.ravel() for part in parts]), places, bias)


def _entry(trunk: CausalTransformer) -> list[F32s]:
    """What a position is made of: the item's layer, the start token, a row for each action, the layer of gaps."""
    start = trunk.start.detach().numpy()[None]
    deaf = [np.zeros((2, start.shape[1]), dtype=np.float32), np.zeros_like(start)]  # a trunk without a clock hears no gap
    gap = _affine(trunk.gap) if trunk.gap is not None else deaf
    return [*_affine(trunk.item, scale_in=trunk.item.in_features**0.5), start, trunk.action.weight.detach().numpy(), *gap]


def _leave(trunk: CausalTransformer, head: ResidualHead) -> list[F32s]:
    """The last norm, and the head's two layers."""
    norm = [trunk.norm.weight.detach().numpy()[None], trunk.norm.bias.detach().numpy()[None]]
    return [*norm, *_affine(head.residual.inner), *_affine(head.residual.outer)]


def _block(block: Block) -> list[F32s]:
    """A block's five layers with its norms folded away."""
    scale = (block.query.in_features // block.heads) ** -0.5
    return [
        *_affine(block.query, block.norm_attention, scale=scale),
        *_affine(block.key_value, block.norm_attention),
        *_affine(block.joined),
        *_affine(block.hidden.inner, block.norm_hidden),
        *_affine(block.hidden.outer),
    ]


def _affine(layer: nn.Linear, norm: nn.LayerNorm | None = None, *, scale: float = 1.0, scale_in: float = 1.0) -> list[F32s]:
    """Weight (in, out) and bias (1, out) of x @ weight + bias, after the norm's own scale and shift if one is given.

    `scale` multiplies the result, `scale_in` what comes in.
    """
    weight, bias = layer.weight.detach().double() * scale_in, layer.bias.detach().double()
    if norm is not None:
        bias = bias + weight @ norm.bias.detach().double()
        weight = weight * norm.weight.detach().double()
    return [np.ascontiguousarray((scale * weight).float().numpy().T), (scale * bias).float().numpy()[None]]
