"""The item tower without surroundings: one vector per item from its id row and its hashed text alone.

What a file of sequences knows of an item, and no more; the same vectors whatever was counted since, so they can be compared across
processes to the last bit. An item with neither id row nor text is the zero vector: as near to everybody as to nobody.

    z = ItemTable(config, rows=len(ids) + 1)(ItemTensors.of(features, id_rows))      # (I, D), unit rows
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from encoders.config import ModelConfig
from encoders.layers import Mlp
from encoders.text import TEXT_ROWS
from encoders.unified import ItemTensors


class ItemTable(nn.Module):
    """`rows` counts the id rows with row 0, which stays zero and stands for "no id"."""

    def __init__(self, config: ModelConfig, *, rows: int) -> None:
        super().__init__()
        dim = config.dim
        self.shown = (1 - config.id_dropout) * (1 - config.cold_dropout)
        self.ids = nn.Embedding(rows, dim, padding_idx=0)
        self.words = nn.EmbeddingBag(TEXT_ROWS, dim, mode="mean")
        self.norm_text = nn.LayerNorm(dim)
        self.text = Mlp(dim, dim, dim_out=dim)
        nn.init.normal_(self.ids.weight, std=dim**-0.5)
        nn.init.normal_(self.words.weight, std=1.0)
        with torch.no_grad():
            self.ids.weight[0] = 0.0

    def forward(self, items: ItemTensors, asked: int | None = None) -> Float[Tensor, "A D"]:
        """Unit rows of the first `asked` items, or of all.

        In training the id of an item that has text is hidden at random, so that text alone works too.
        """
        if not len(items.text):
            return functional.normalize(self.ids(items.id_rows[:asked]), dim=-1)
        described = torch.diff(items.offsets, append=items.offsets.new_full((1,), len(items.text))) > 0
        rows = items.id_rows
        if self.training:
            rows = rows * ((torch.rand(rows.shape, device=rows.device) < self.shown) | ~described)
        text = self.text(self.norm_text(self.words(items.text, items.offsets))) * described[:, None]
        return functional.normalize(self.ids(rows) + text, dim=-1)[:asked]
