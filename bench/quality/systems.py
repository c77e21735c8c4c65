"""The systems of one report: the counting sources, the neural one beside them, or it alone.

systems = Together(LooBaselines(train, num_items), SequenceModel(model, features, action=2)); systems.scores(inputs)["neural"]
"""

from dataclasses import dataclass
from typing import Final

from encoders.base import F64s, I64s, Ragged
from trainers.sequence_baselines import Systems
from trainers.sequence_model import NEURAL, SequenceModel

EVERYTHING: Final = "all"
COUNTING: Final = "counting"
CHOICES: Final = (EVERYTHING, COUNTING, NEURAL)
"""What `--model` may name."""


class Nothing:
    """No counting source at all."""

    names: tuple[str, ...] = ()

    def learn(self, session: I64s) -> None:
        """Nobody learns it."""

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        """No score."""
        return {}


@dataclass(frozen=True)
class Together:
    """Counting sources and a neural one."""

    counting: Systems
    neural: SequenceModel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The systems' names; the neural one last, so that it wins a tie."""
        return (*self.counting.names, *((NEURAL,) if self.neural else ()))

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        """By system, each (B, I): masses, and logits of the neural one."""
        return self.counting.scores(inputs) | ({NEURAL: self.neural.scores(inputs)} if self.neural else {})
