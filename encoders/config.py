"""What a model is: its sizes and its dropouts, one frozen dataclass, stored as JSON in the checkpoint. Not where things are.

config = ModelConfig(dim=32); ModelConfig.from_mapping(json.loads(header)["config"])
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

TEMPERATURE_MAX: Final = 100.0


@dataclass(frozen=True)
class ModelConfig:
    """What the model is. Stored in the checkpoint; papers, 1.5, CPU column. Dropouts act in training only."""

    dim: int = 64
    item_heads: int = 4
    user_layers: int = 2
    user_heads: int = 2
    history_len: int = 64
    neighbours_max: int = 10
    image_dim: int = 0
    head_hidden: int = 32
    temperature: float = 10.0  # at the start; learned afterwards
    dropout: float = 0.2
    id_dropout: float = 0.1
    neighbour_dropout: float = 0.5
    cold_dropout: float = 0.15  # items that show their content alone, as one that was just born does
    surroundings: bool = True  # off: an item is its id row and its text alone, `table.py` instead of `unified.py`
    clock: bool = True  # off: how long the next question was in coming is not heard, for data whose times mean nothing

    def __post_init__(self) -> None:
        counts = (self.dim, self.item_heads, self.user_layers, self.user_heads, self.history_len, self.neighbours_max, self.head_hidden)
        if min(counts) < 1 or self.image_dim < 0:
            raise ValueError(f"sizes must be at least 1 (image_dim 0): {self}")
        for heads in (self.item_heads, self.user_heads):
            if self.dim % heads:
                raise ValueError(f"dim must be a multiple of the heads: {self.dim} of {heads}")
        for name in ("dropout", "id_dropout", "neighbour_dropout", "cold_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 < self.temperature <= TEMPERATURE_MAX:
            raise ValueError(f"temperature must be in (0, {TEMPERATURE_MAX}], not {self.temperature}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "ModelConfig":
        """Raises ValueError naming unknown keys."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown keys in the model's configuration: {sorted(unknown)}")
        return cls(**values)  # type: ignore[arg-type]  # keys are checked above, ranges in __post_init__
