"""The user encoder: a causal transformer over the vectors of the items acted on.

OmniSage's user sequence tower (papers, 1.2). Each position hears its item, its action and how long the next question was in coming; the
distance between positions enters as a learned bias per head. A start token stands before every history, so an empty one has a vector too.

    outputs = CausalTransformer(config)(vectors, actions, gaps, mask)      # (B, L, D): position t is the user after action t
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from encoders.base import GAP_MS_MAX, GAP_STEP_MS
from encoders.config import ModelConfig
from encoders.layers import Block

ACTION_CODES = 256


class CausalTransformer(nn.Module):
    """(B, L) actions in, (B, L, D) user vectors out, not normalised; L may be anything up to `history_len`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.history_len = config.history_len
        self.item = nn.Linear(config.dim, config.dim)
        self.action = nn.Embedding(ACTION_CODES, config.dim)
        self.gap = nn.Linear(2, config.dim) if config.clock else None
        self.start = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.distance = nn.Parameter(torch.zeros(config.user_heads, config.history_len + 1))  # the last column is the start token's
        hidden = 4 * config.dim
        self.blocks = nn.ModuleList(
            Block(config.dim, config.user_heads, hidden=hidden, dropout=config.dropout) for _ in range(config.user_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.action.weight, std=0.02)

    def forward(
        self, vectors: Float[Tensor, "B L D"], actions: Int[Tensor, "B L"], gaps_ms: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L D"]:
        """Position t depends on actions 0..t and, with a clock, on the time of the question after t; a padded one is an empty history."""
        heard = self.item(vectors * vectors.shape[-1] ** 0.5) + self.action(actions)
        if self.gap is not None:
            heard = heard + self.gap(gap_features(gaps_ms))
        x = torch.where(mask[:, :, None], self.dropout(heard), self.start)
        x = torch.cat([self.start.expand(len(x), 1, -1), x], dim=1)  # (B, 1 + L, D)
        shown = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        bias = self.attention_bias(x.shape[1]).masked_fill(~shown[:, None, None, :], float("-inf"))  # (B, H, 1 + L, 1 + L)
        for block in self.blocks:
            x = block(x, x, bias)
        out: Tensor = self.norm(x[:, 1:])
        return out

    def attention_bias(self, length: int) -> Float[Tensor, "H T T"]:
        """Distance bias with the future hidden; column 0 is the start token, whose distance does not count."""
        place = torch.arange(length, device=self.distance.device)
        distance = place[:, None] - place[None, :]
        bias = self.distance[:, distance.clamp(min=0)]
        bias = torch.cat([self.distance[:, -1, None, None].expand(-1, length, 1), bias[:, :, 1:]], dim=2)
        return bias.masked_fill(distance < 0, float("-inf"))


def gap_features(gaps_ms: Int[Tensor, "B L"]) -> Float[Tensor, "B L 2"]:
    """log(1 + minutes) of the gap, at most 30 days and scaled to about 1, and whether there was any gap at all."""
    gaps = gaps_ms.clamp(0, GAP_MS_MAX).to(torch.float32)
    return torch.stack([torch.log1p(gaps / GAP_STEP_MS) / 10.0, (gaps > 0).to(torch.float32)], dim=-1)
