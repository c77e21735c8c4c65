"""The query-side head: the small part that is fine-tuned every few minutes while the trunk, and with it every item vector, stays.

head = ResidualHead(dim=64, hidden=32, temperature=10.0); scores = head.temperature() * head(users) @ items.T
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.config import TEMPERATURE_MAX
from encoders.layers import Mlp


class ResidualHead(nn.Module):
    """unit(u + W2·relu(W1·u + b1) + b2), with W2 = b2 = 0 at the start: then it returns u itself, to the bit.

    b2 is a drift that all users share (what became popular); W2·relu(W1·u) one that depends on taste. The scale of the softmax lives here
    too, as its logarithm, at most log 100. Papers, section 5.4.
    """

    def __init__(self, dim: int, hidden: int, *, temperature: float) -> None:
        super().__init__()
        self.residual = Mlp(dim, hidden, dim_out=dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        nn.init.zeros_(self.residual.outer.weight)
        nn.init.zeros_(self.residual.outer.bias)

    def forward(self, users: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Unit rows in, unit rows out."""
        moved = self.residual(users)
        out = users + moved
        still = (moved == 0).all(dim=-1, keepdim=True)  # dividing by a length of 1 ± 1e-7 would move an identity's last bit
        headed: Tensor = out / torch.where(still, 1.0, out.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        return headed

    def temperature(self) -> Float[Tensor, ""]:
        """The scale of cosines in the softmax, e^θ <= 100."""
        return self.log_temperature.clamp(max=math.log(TEMPERATURE_MAX)).exp()
