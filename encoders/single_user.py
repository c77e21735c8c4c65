"""One user, now: the causal transformer and the head for a single history, in numpy, for the look-up that cannot wait.

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
from encoders.layers import Block
from encoders.transformer import GAP_MS_MAX, GAP_STEP_MS, CausalTransformer

EPSILON = np.float32(1e-5)  # torch's LayerNorm


@dataclass(frozen=True)
class Affine:
    """x @ weight + bias."""

    weight: F32s
    bias: F32s

    @classmethod
    def of(cls, layer: nn.Linear, norm: nn.LayerNorm | None = None, *, scale: float = 1.0) -> "Affine":
        """The layer, after the norm's own scale and shift if one is given; `scale` multiplies the result."""
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        if norm is not None:
            bias = bias + weight @ norm.bias.detach().double()
            weight = weight * norm.weight.detach().double()
        return cls(np.ascontiguousarray((scale * weight).float().numpy().T), (scale * bias).float().numpy())

    def __call__(self, x: F32s) -> F32s:
        return x @ self.weight + self.bias


class PreparedBlock:
    """A `Block` whose norms are folded away; `ask` computes it for the last `asked` positions only."""

    def __init__(self, block: Block) -> None:
        self.heads = block.heads
        dim = block.query.in_features
        self.query = Affine.of(block.query, block.norm_attention, scale=(dim // block.heads) ** -0.5)
        self.key_value = Affine.of(block.key_value, block.norm_attention)
        self.joined = Affine.of(block.joined)
        self.inner = Affine.of(block.hidden.inner, block.norm_hidden)
        self.outer = Affine.of(block.hidden.outer)

    def ask(self, x: F32s, bias: F32s, *, asked: int) -> F32s:
        """x (T, D), bias (H, T, T) -> the last `asked` rows of the block's output."""
        normed = standardised(x)
        dim = x.shape[1]
        width = dim // self.heads
        query, pair = self.query(normed[-asked:]), self.key_value(normed)
        heard = np.empty_like(query)
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            logits = query[:, part] @ pair[:, part].T
            logits += bias[head, -asked:]
            logits -= logits.max(axis=1, keepdims=True)
            np.exp(logits, out=logits)
            logits /= logits.sum(axis=1, keepdims=True)
            heard[:, part] = logits @ pair[:, dim + head * width : dim + (head + 1) * width]
        out = x[-asked:] + self.joined(heard)
        inner = self.inner(standardised(out))
        np.maximum(inner, 0, out=inner)
        out += self.outer(inner)
        return out


class PreparedUser:
    """Weights of one model version, laid out for `encode`; build it anew when the weights change."""

    def __init__(self, trunk: CausalTransformer, head: ResidualHead) -> None:
        with torch.inference_mode():
            self.history_len = trunk.history_len
            dim = trunk.item.in_features
            self.item = Affine.of(trunk.item, scale=1.0)
            self.item_scale = np.float32(dim**0.5)
            self.action = trunk.action.weight.detach().numpy().copy()
            self.gap = Affine.of(trunk.gap)
            self.start = trunk.start.detach().numpy().copy()
            self.bias = trunk.attention_bias(trunk.history_len + 1).numpy().copy()
            self.blocks = [PreparedBlock(block) for block in trunk.blocks if isinstance(block, Block)]
            self.norm = (trunk.norm.weight.detach().numpy().copy(), trunk.norm.bias.detach().numpy().copy())
            self.inner, self.outer = Affine.of(head.residual.inner), Affine.of(head.residual.outer)

    def encode(self, item_vectors: F32s, actions: U8s, gaps_ms: I64s) -> F32s:
        """(L, D) vectors, (L,) actions and gaps, oldest first, the newest `history_len` used -> (D,) unit length. L may be 0."""
        newest = slice(-self.history_len, None)
        x = np.empty((min(len(actions), self.history_len) + 1, len(self.start)), dtype=np.float32)
        x[0] = self.start
        x[1:] = self.item(item_vectors[newest] * self.item_scale) + self.action[actions[newest]] + self.gap(gap_features(gaps_ms[newest]))
        bias = self.bias[:, : len(x), : len(x)]
        for block in self.blocks[:-1]:
            x = block.ask(x, bias, asked=len(x))
        last = self.blocks[-1].ask(x, bias, asked=1)
        vector: F32s = self._headed(unit(standardised(last) * self.norm[0] + self.norm[1]))[0]
        return vector

    def _headed(self, user: F32s) -> F32s:
        moved = self.outer(np.maximum(self.inner(user), 0))
        return unit(user + moved) if moved.any() else user


def standardised(x: F32s) -> F32s:
    """Rows with mean 0 and variance 1."""
    centred: F32s = x - x.mean(axis=1, keepdims=True)
    centred /= np.sqrt(np.einsum("td,td->t", centred, centred)[:, None] / np.float32(x.shape[1]) + EPSILON)
    return centred


def unit(x: F32s) -> F32s:
    """Rows of length 1; a row of zeros stays."""
    rows: F32s = x / np.maximum(np.sqrt(np.einsum("td,td->t", x, x)), np.float32(1e-12))[:, None]
    return rows


def gap_features(gaps_ms: I64s) -> F32s:
    """As `encoders.transformer.gap_features`."""
    gaps = np.clip(gaps_ms, 0, GAP_MS_MAX).astype(np.float32)
    return np.stack([np.log1p(gaps / np.float32(GAP_STEP_MS)) / np.float32(10), gaps > 0], axis=1).astype(np.float32)
