"""What is changed, one thing at a time, against what it is compared, and what the papers saw.

    variant = VARIANTS["no graph"]; config = variant.config(plan)

`OmniSage` is everything together. Each other variant says which one it is read against (`against`) and how the paper's figures moved
from there to here (`paper`), so that direction can be put beside direction. Sources: papers, 1.6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from encoders.config import ModelConfig
from trainers.config import TrainConfig

WHOLE: Final = "OmniSage"
FUTURE_STEPS: Final = 28
"""How far L_fut looks, in actions, where a file has no times."""
CHECKS: Final = 6
"""Looks at validation in a run; the best is kept."""


@dataclass(frozen=True)
class Variant:
    """`model` and `training` are changed fields; `without` names parts of the data that are not shown (`text`, `collections`)."""

    says: str
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    half_neighbours: bool = False
    by_last_item: bool = False
    against: str = WHOLE
    paper: str = ""
    down: bool | None = True
    """Whether the paper's figure falls from `against` to here; None: it hardly moves."""

    def config(self, plan: TrainConfig) -> TrainConfig:
        """The plan with what is changed."""
        model = replace(plan.model, **self.model)
        if self.half_neighbours:
            halves = {name: (getattr(model, name) + 1) // 2 for name in ("neighbours_max", "siblings_max", "collections_max")}
            model = replace(model, **halves)
        return replace(plan, model=model, **self.training)


GRAPHLESS: Final[dict[str, Any]] = {"pair_weight": 0.0, "feature_weight": 0.0}
VARIANTS: Final[dict[str, Variant]] = {
    WHOLE: Variant("graph, content and sequence, all tasks, in-batch and random negatives, corrected"),
    "no graph": Variant(
        "no neighbours, no pairs", without=("graph",), training={"pair_weight": 0.0}, paper="UE .580 -> .375, EE .609 -> .440"
    ),
    "no content": Variant("no text", without=("text",), training={"feature_weight": 0.0}, paper="not published"),
    "no sequence": Variant(
        "pairs and features alone; asked by the last item", training={"next_weight": 0.0, "future_weight": 0.0}, by_last_item=True,
        paper="joint training: UE up, EE down by less than 10 %",
    ),
    "next task alone": Variant(
        "neither later items, nor pairs, nor features", training={"future_weight": 0.0, **GRAPHLESS}, paper="UE .580 -> .564"
    ),
    "no later items": Variant("without L_fut", training={"future_weight": 0.0}, paper="not published"),
    "collections away": Variant(
        "co-engagement alone", without=("collections",), paper="both relations UE .580, one alone .564 (Pin-board)"
    ),
    "PinSage-like": Variant(
        "pairs over pooled neighbours, no sequence", model={"aggregator": "mean"},
        training={"next_weight": 0.0, "future_weight": 0.0, "feature_weight": 0.0}, by_last_item=True, paper="EE .609 -> .461",
    ),
    "PinnerFormer-like": Variant(
        "a sequence over content, no graph, no pairs", without=("graph",), training=GRAPHLESS, paper="UE .580 -> .306"
    ),
    "no random negatives": Variant("in-batch alone", training={"uniform": 0}, paper="UE +31.2 % with 1 K random ones"),
    "10 K random negatives": Variant("ten times as many", training={"uniform": 10_000}, paper="UE +43.5 % instead of +31.2 %", down=False),
    "random negatives alone": Variant("none in-batch", training={"in_batch": False}, paper="not published"),
    "uncorrected": Variant("mixed negatives without logQ", training={"correction": "off"}, paper="not published"),
    "in-batch, uncorrected": Variant(
        "in-batch negatives without logQ", training={"uniform": 0, "correction": "off"}, against="no random negatives",
        paper="not published",
    ),
    "half the neighbours": Variant("", half_neighbours=True, paper="EE -.1 %, UE -1.4 %", down=None),
    "attention": Variant("a graph attention layer", model={"aggregator": "attention"}, paper="EE -6.0 % (GAT, 1 hop)"),
    "mean": Variant("neighbours pooled by their share", model={"aggregator": "mean"}, paper="not published"),
    "prefixes": Variant("asked of a quarter and half of the vector too", training={"prefixes": (16, 32)}, paper="not published", down=None),
}  # fmt: skip


def planned_model(*, history_len: int, collections: bool) -> ModelConfig:
    """OmniSage's towers at our size, for sequences without times."""
    plain = ModelConfig(history_len=history_len, clock=False, cold_dropout=0.0)
    return replace(plain, siblings_max=10, collections_max=5) if collections else plain


def planned(model: ModelConfig, *, seed: int, batch: int, steps: int, seconds: float) -> TrainConfig:
    """All tasks, 1,024 random negatives beside those of the batch. `steps` ends a run, `seconds` only one that is too slow."""
    return TrainConfig(
        model=model, seed=seed, steps_max=steps, seconds_max=seconds, batch_windows=batch, check_every=max(1, steps // CHECKS),
        patience=CHECKS, future_weight=1.0, future_ms=FUTURE_STEPS, pair_weight=1.0, feature_weight=1.0, whole_max=1, uniform=1024,
        shuffle_ties=False,
    )  # fmt: skip
