"""What shapes the state: bounds, windows, half-lives and what each action means.

Two states built with equal shapes from one log are equal byte for byte. The shape is stored with the state, and a start
with another one is refused.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Final

import msgspec
import numpy as np

from storage.arrays import Bools
from storage.neighbours import NEIGHBOURS_MAX

REDUCER_VERSION: Final = 1
DAY_MS: Final = 86_400_000
ACTION_CODES_MAX: Final = 32
DISTANCE_UNIT: Final = 60
"""A neighbour at distance g adds DISTANCE_UNIT // g: whole numbers for 1/1 .. 1/5 (60, 30, 20, 15, 12)."""


@dataclass(frozen=True)
class Action:
    """What an action means: its code in histories (1..31), its weight in edges and counts, and whether it is a liking."""

    code: int
    weight: int
    positive: bool


ACTIONS: Final[dict[str, Action]] = {
    "view": Action(1, 1, True),
    "click": Action(2, 1, True),
    "save": Action(3, 3, True),
    "like": Action(4, 3, True),
    "cart": Action(5, 3, True),
    "purchase": Action(6, 5, True),
    "share": Action(7, 3, True),
    "hide": Action(8, 1, False),
    "search": Action(9, 1, False),
}
SURFACES: Final = ("home", "search", "related", "feed", "collection", "email", "push", "ad")
OTHER_SURFACE: Final = 255


@dataclass(frozen=True)
class Shape:
    """Settings of the reducers. Every bound is inclusive; half-lives are in milliseconds."""

    partitions: int = 1
    history_max: int = 128
    seen_max: int = 2048
    neighbours_max: int = 128
    edge_window: int = 10
    edge_half_life_ms: int = 90 * DAY_MS
    count_half_life_ms: int = 7 * DAY_MS
    actions: dict[str, Action] = field(default_factory=lambda: dict(ACTIONS))

    def __post_init__(self) -> None:
        for name, low, high in (
            ("partitions", 1, 4096),
            ("history_max", 1, 256),
            ("seen_max", 1, 65_536),
            ("neighbours_max", 2, NEIGHBOURS_MAX),
            ("edge_window", 1, 16),
            ("edge_half_life_ms", 1000, 3650 * DAY_MS),
            ("count_half_life_ms", 1000, 3650 * DAY_MS),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}={value} is outside {low}..{high}")
        codes = [a.code for a in self.actions.values()]
        if len(set(codes)) < len(codes) or not all(1 <= code < ACTION_CODES_MAX for code in codes):
            raise ValueError(f"action codes must be distinct and within 1..{ACTION_CODES_MAX - 1}, not {sorted(codes)}")
        for name, action in self.actions.items():
            if not 1 <= action.weight <= 1000:
                raise ValueError(f"action {name!r} has weight {action.weight}, outside 1..1000")

    @cached_property
    def positive(self) -> Bools:
        """Which action codes are a liking: (256,)."""
        positive = np.zeros(256, dtype=np.bool_)
        for action in self.actions.values():
            positive[action.code] = action.positive
        return positive

    def record(self) -> dict[str, str | int | float]:
        """The shape as flat values, to be stored with the state and compared at the next start."""
        flat = {name: value for name, value in asdict(self).items() if name != "actions"}
        return {"reducers": REDUCER_VERSION, **flat, "actions": msgspec.json.encode(self.actions, order="sorted").decode()}
