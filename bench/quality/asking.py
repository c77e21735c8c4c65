"""Questions and their ranks: every item of the catalogue scored, a block of questions at a time.

    ranks = ranks_of(systems, questions, blend, advance=advance); ranks["pop"]

No matrix of questions by items is ever whole: a block has at most four million cells a system.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import F64s, I64s, Ragged
from encoders.blend import Blend
from serving.features import EPSILON
from trainers.kernels import add_log_shares
from trainers.metrics import mid_ranks_among
from trainers.sequence_baselines import Systems
from trainers.sequence_model import NEURAL

CELLS_MAX: Final = 1 << 22
BLEND: Final = "blend"

Advance = Callable[[int], None]
"""Told how many questions more are done."""


@dataclass(frozen=True)
class Questions:
    """What came after each input? `left_out`: distinct items that are no candidates."""

    inputs: Ragged
    targets: I64s
    left_out: Ragged

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: I64s) -> "Questions":
        """These questions, in this order."""
        return Questions(self.inputs.take(rows), self.targets[rows], self.left_out.take(rows))


def nothing(count: int) -> Ragged:
    """So many empty lists."""
    return Ragged(np.zeros(0, dtype=np.int64), np.zeros(count + 1, dtype=np.int64))


def blocks(questions: Questions, num_items: int) -> Iterator[Questions]:
    """The questions in order, cut into blocks of bounded size."""
    step = max(1, CELLS_MAX // num_items)
    for start in range(0, len(questions), step):
        yield questions.take(np.arange(start, min(len(questions), start + step)))


def ranks_of(systems: Systems, questions: Questions, blend: Blend | None, *, num_items: int, advance: Advance) -> dict[str, I64s]:
    """Mid-ranks of every system and of the blend, (n,) each."""
    names = (*systems.names, *((BLEND,) if blend else ()))
    ranks: dict[str, list[I64s]] = {name: [np.zeros(0, dtype=np.int64)] for name in names}
    for block in blocks(questions, num_items):
        by_name = systems.scores(block.inputs)
        if blend:
            by_name[BLEND] = blended(blend, by_name, block.left_out)
        for name, scores in by_name.items():
            ranks[name].append(mid_ranks_among(scores, block.targets, block.left_out))
        advance(len(block))
    return {name: np.concatenate(parts) for name, parts in ranks.items()}


def blended(blend: Blend, by_name: dict[str, F64s], left_out: Ragged) -> F64s:
    """Weighted sum of the sources' log-scores (B, I), less a constant of each row: log-shares of masses, the neural logits as they are.

    As `serving/features.py` makes them: there too logits are not floored, which would take from them the order of what is unlikely.
    """
    total = np.zeros(by_name[blend.sources[0]].shape)
    for name, weight in zip(blend.sources, blend.weights.tolist(), strict=True):
        if weight > 0.0 and name == NEURAL:
            total += weight * by_name[name]
        elif weight > 0.0:
            add_log_shares(total, by_name[name], weight, EPSILON, left_out.values, left_out.offsets)
    return total
