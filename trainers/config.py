"""How a trunk is trained: budget, batch, losses, negatives, one frozen dataclass. What the model is: `encoders/config.py`.

config = TrainConfig(seconds_max=30.0, model=ModelConfig(dim=32))
"""

from dataclasses import dataclass, field
from typing import Final

from encoders.config import ModelConfig

CPU: Final = "cpu"
CUDA: Final = "cuda"
FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"


@dataclass(frozen=True)
class TrainConfig:
    """How a trunk is trained. One step is `batch_windows` windows of `model.history_len` targets at most.

    Whichever of `steps_max` and `seconds_max` is nearer drives the cosine; a run that seconds end is not repeatable to the bit. A run that
    has not made `steps_min` steps when its seconds are over may take as long again.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    steps_min: int = 0
    steps_max: int = 450
    seconds_max: float = 60.0
    batch_windows: int = 32
    learning_rate: float = 3e-3
    learning_rate_min: float = 1e-5
    weight_decay: float = 0.05
    warm_up_steps: int = 30
    clip_norm: float = 1.0
    validation_share: float = 0.1
    validation_max: int = 4096
    check_every: int = 50
    patience: int = 6  # checks without a better one
    next_weight: float = 1.0
    future_weight: float = 0.0  # also ask every slot for an action of the time behind its window
    future_ms: int = 28 * 86_400_000
    pair_weight: float = 0.0
    feature_weight: float = 0.0
    pairs: int = 256  # pairs, and features, asked in a step
    prefixes: tuple[int, ...] = ()  # widths that must rank by themselves
    prefix_weight: float = 0.05
    correction: str = "same_q"
    in_batch: bool = True  # whether what the others of the batch took are negatives
    whole_max: int = 4096  # up to so many items, all are embedded and compared with at every step
    uniform: int = 512
    sketch_tau: float = 10_000.0  # draws
    chunk_rows: int = 128
    exclude_seen: bool = True  # what a user had is no candidate; off where people come back to items
    shuffle_ties: bool = True
    own_graph: bool = True  # neighbours and degree from the training events instead of the live ones
    device: str = CPU
    precision: str = FLOAT32  # of the towers' matrix products while they learn; losses, validation and weights are float32

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.precision not in (FLOAT32, BFLOAT16):
            raise ValueError(f"precision must be {FLOAT32} or {BFLOAT16}, not {self.precision!r}")
        if self.correction not in ("same_q", "none", "off"):
            raise ValueError(f"correction must be same_q, none (not of what was taken) or off (of nothing), not {self.correction!r}")
        weights = (self.next_weight, self.future_weight, self.pair_weight, self.feature_weight, self.prefix_weight)
        if min(weights) < 0 or self.future_ms < 1:
            raise ValueError(f"weights and future_ms must not be negative: {weights}, {self.future_ms}")
        if not all(0 < width < self.model.dim for width in self.prefixes):
            raise ValueError(f"prefixes must lie between 0 and dim = {self.model.dim}, not {self.prefixes}")
        if self.uniform < 0 or not (self.uniform or self.in_batch):
            raise ValueError(f"uniform must be at least 0, and at least 1 without in_batch, not {self.uniform}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), not {self.validation_share}")
        if min(self.steps_max, self.batch_windows, self.check_every, self.patience, self.chunk_rows, self.pairs) < 1:
            raise ValueError(f"steps, sizes and patience must be at least 1: {self}")
        if not 0 <= self.steps_min <= self.steps_max:
            raise ValueError(f"steps_min must lie between 0 and steps_max = {self.steps_max}, not at {self.steps_min}")
        if self.seconds_max <= 0 or self.learning_rate <= 0:
            raise ValueError(f"seconds_max and learning_rate must be positive: {self.seconds_max}, {self.learning_rate}")


def check_device(name: str) -> None:
    """Raises ValueError for one that no training can be told; `device_of` (`trainers/device.py`) makes one of `auto`."""
    if name not in (CPU, CUDA):
        raise ValueError(f"device must be {CPU} or {CUDA}, not {name!r}")
