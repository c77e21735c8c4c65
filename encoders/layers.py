"""What the item tower and the user encoder share: one transformer layer and a two-layer perceptron.

block = Block(dim=64, heads=4, hidden=256, dropout=0.1); cls = block(cls, tokens)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, dim_in: int, hidden: int, *, dim_out: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim_in, hidden)
        self.outer = nn.Linear(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) -> (..., dim_out)."""
        out: Tensor = self.outer(torch.relu(self.inner(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer in which the queries may be fewer than the keys: x + attention, then x + perceptron.

    We differ from the papers' GELU: ReLU, which the compiled path computes in one pass without erf. Their quality was not compared.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_hidden = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.joined = nn.Linear(dim, dim)
        self.hidden = Mlp(dim, hidden, dim_out=dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Float[Tensor, "B Q D"], keys: Float[Tensor, "B T D"], bias: Tensor | None = None) -> Float[Tensor, "B Q D"]:
        """`bias` is added to the attention logits and broadcasts to (B, heads, Q, T); minus infinity hides a key."""
        batch, asked, dim = queries.shape
        query = self.query(self.norm_attention(queries)).view(batch, asked, self.heads, -1).transpose(1, 2)  # (B, H, Q, D/H)
        pair = self.key_value(self.norm_attention(keys)).view(batch, keys.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = query @ pair[0].transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, H, Q, T)
        if bias is not None:
            logits = logits + bias
        heard = (logits.softmax(dim=-1) @ pair[1]).transpose(1, 2).reshape(batch, asked, dim)
        x = queries + self.dropout(self.joined(heard))
        out: Tensor = x + self.dropout(self.hidden(self.norm_hidden(x)))
        return out
