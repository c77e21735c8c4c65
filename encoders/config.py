"""What a model is: its sizes and its dropouts, one frozen dataclass, stored as JSON in the checkpoint. Not where things are.

config = ModelConfig(dim=32); ModelConfig.from_mapping(json.loads(header)["config"])
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

TEMPERATURE_MAX: Final = 100.0
NEAR, SIBLINGS, COLLECTIONS, SHOWN = range(4)
RELATIONS: Final = ("near", "siblings", "collections", "shown")
"""How a neighbour came to be one: engaged with about then; in the same collection; the collection itself; shown next to it."""
PLACES: Final = (10, 10, 5, 5)
"""For neighbours of each relation, in a new model, if there are such neighbours at all (papers, 1.5)."""
AGGREGATORS: Final = ("transformer", "attention", "mean")


@dataclass(frozen=True)
class ModelConfig:
    """What the model is. Stored in the checkpoint; papers, 1.5, CPU column. Dropouts act in training only."""

    dim: int = 64
    item_heads: int = 4
    user_layers: int = 2
    user_heads: int = 2
    history_len: int = 64
    neighbours_max: int = 10  # near ones
    siblings_max: int = 0
    collections_max: int = 0
    shown_max: int = 0
    aggregator: str = "transformer"
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
        if min(counts) < 1 or min(self.image_dim, self.siblings_max, self.collections_max, self.shown_max) < 0:
            raise ValueError(f"sizes must be at least 1 (image_dim and other neighbours 0): {self}")
        if self.aggregator not in AGGREGATORS:
            raise ValueError(f"aggregator must be one of {', '.join(AGGREGATORS)}, not {self.aggregator!r}")
        for heads in (self.item_heads, self.user_heads):
            if self.dim % heads:
                raise ValueError(f"dim must be a multiple of the heads: {self.dim} of {heads}")
        for name in ("dropout", "id_dropout", "neighbour_dropout", "cold_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 < self.temperature <= TEMPERATURE_MAX:
            raise ValueError(f"temperature must be in (0, {TEMPERATURE_MAX}], not {self.temperature}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Places for neighbours of each relation."""
        return (self.neighbours_max, self.siblings_max, self.collections_max, self.shown_max)

    def placed(self, widths: tuple[int, ...]) -> "ModelConfig":
        """With so many places for neighbours of each relation; those of a missing one are 0."""
        near, siblings, collections, shown = (*widths, 0, 0, 0)[: len(RELATIONS)]
        return replace(self, neighbours_max=near, siblings_max=siblings, collections_max=collections, shown_max=shown)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "ModelConfig":
        """Raises ValueError naming unknown keys."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown keys in the model's configuration: {sorted(unknown)}")
        return cls(**values)  # type: ignore[arg-type]  # keys are checked above, ranges in __post_init__
