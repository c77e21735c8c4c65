"""One training step's objective: embed what the batch needs once, ask every window for its next items and items for their neighbours.

loss = Objective(config, model, features=features, events=events).backward(batch)      # gradients are in the parameters
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoders.base import F64s, I64s, ItemFeatures
from encoders.model import Model
from trainers.config import TrainConfig
from trainers.losses import Contrast, carry_on, chunked_gradients
from trainers.negatives import CountMin, Draws, Pool, mixed_pool
from trainers.parallel import ALONE, Part
from trainers.samples import Placed, Windows
from trainers.seen import seen_before
from trainers.validation import window_outputs


@dataclass(frozen=True)
class Step:
    """What the losses of one step share: vectors of all it touches, where each catalogue row stands among them, and the pool."""

    vectors: Tensor
    place: I64s
    pool: Pool
    draws: Draws

    def of(self, rows: I64s) -> Tensor:
        """Vectors of these catalogue rows."""
        return self.vectors[torch.from_numpy(self.place[rows])]

    def column_of(self) -> I64s:
        """(I,) column of each catalogue row in the pool, -1 = not in it."""
        columns = np.full(len(self.place), -1, dtype=np.int64)
        columns[self.pool.rows] = np.arange(len(self.pool.rows))
        return columns


class Objective:
    """next_weight · L_next + pair_weight · L_pair (papers, 1.3) on one catalogue, `features`, which the events' rows point into."""

    def __init__(self, config: TrainConfig, model: Model, *, features: ItemFeatures, events: Placed, part: Part = ALONE) -> None:
        """`part`: of each batch's questions this process asks its share, among the negatives of the whole batch."""
        self.part = part
        self.config, self.model, self.features, self.events = config, model, features, events
        self.whole = len(features) <= config.whole_max
        self.tensors = model.item_tensors(features) if self.whole else None
        self.random = np.random.default_rng(config.seed)
        self.sketch = CountMin(tau=config.sketch_tau, seed=config.seed)
        self.drawn = 0
        self.met = np.unique(events.rows)
        self.sources = np.flatnonzero((features.neighbours >= 0).any(axis=1))

    def backward(self, batch: Windows) -> float:
        """Leaves the gradients of the batch's loss in the parameters and returns the loss; of this part of it, where there are several."""
        taken, pairs = self._taken(batch), self._pairs()
        step = self._step(batch, taken, pairs)
        own, own_pairs = batch.take(self.part.share(np.arange(len(batch)))), pairs[:, self.part.share(np.arange(pairs.shape[1]))]
        asked, losses = self._taken(own), list[tuple[float, Contrast]]()
        if len(asked):
            losses.append((self.config.next_weight * len(asked) / len(taken), self._next(own, asked, step)))
        if own_pairs.size:
            losses.append((self.config.pair_weight * own_pairs.size / pairs.size, self._pair(own_pairs, step)))
        if not losses:
            return 0.0
        carried = [chunked_gradients(contrast, chunk=self.config.chunk_rows, weight=weight) for weight, contrast in losses]
        carry_on([part for _, parts in carried for part in parts])
        return sum(value for value, _ in carried)

    def _taken(self, batch: Windows) -> I64s:
        """Catalogue rows of all that is asked for."""
        return self.events.rows[batch.targets[batch.targets >= 0]]

    def state(self) -> dict[str, Any]:
        """What changes from step to step but for the sketch's counters, as JSON can hold it."""
        sketch = self.sketch
        return {"random": self.random.bit_generator.state, "drawn": self.drawn, "total": sketch.total, "landmark": sketch.landmark}

    def go_on(self, state: dict[str, Any], counts: F64s) -> None:
        """Stand where a state was taken, with the sketch's counters of then."""
        self.random.bit_generator.state, self.drawn = state["random"], state["drawn"]
        self.sketch.counts, self.sketch.total, self.sketch.landmark = counts, state["total"], state["landmark"]

    def _step(self, batch: Windows, taken: I64s, pairs: I64s) -> Step:
        """Every item the step touches is embedded once, with gradients: the whole catalogue where that is small."""
        draws = Draws(self.features.ids, self.sketch, len(taken), self.config.uniform)
        if self.tensors is not None:
            pool = Pool(self.met, np.zeros(len(self.met), dtype=np.float32))  # that nobody met an item says nothing against it
            return Step(self.model.tower(self.tensors), np.arange(len(self.features)), pool, draws)
        self.drawn += len(taken)
        self.sketch.see(self.features.ids[taken], self.drawn)
        pool = mixed_pool(taken, draws, self.random)
        heard = self.events.rows[batch.inputs[batch.inputs >= 0]]
        needed = np.unique(np.concatenate([heard, pool.rows, pairs.ravel()]))  # what was taken is in the pool
        place = np.zeros(len(self.features), dtype=np.int64)
        place[needed] = np.arange(len(needed))
        tensors = self.model.item_tensors(self.features.around(needed))
        return Step(self.model.tower(tensors, len(needed)), place, pool, draws)

    def _pairs(self) -> I64s:
        """(2, P): items and one neighbour of each, by its share of the weight; P = 0 without weight on pairs or without neighbours."""
        if not self.config.pair_weight or not len(self.sources):
            return np.empty((2, 0), dtype=np.int64)
        chosen = self.random.choice(self.sources, size=self.config.pairs)
        around = self.features.neighbours[chosen]
        weights = np.where(around >= 0, self.features.weights[chosen], 0.0).cumsum(axis=1)
        slots = (weights <= self.random.random((len(chosen), 1)) * weights[:, -1:]).sum(axis=1)
        others = around[np.arange(len(chosen)), slots.clip(max=around.shape[1] - 1)]
        return np.stack([chosen, others])[:, others >= 0]

    def _next(self, batch: Windows, taken: I64s, step: Step) -> Contrast:
        asked = torch.from_numpy(batch.targets >= 0)
        moved = Placed(self.events.columns, step.place[self.events.rows])
        outputs = window_outputs(self.model, step.vectors, moved, cut=batch)
        hidden = self._hidden(taken[None], step)
        if self.config.exclude_seen:
            hidden |= seen_before(batch, self.events.rows, column_of=step.column_of(), width=len(step.pool.rows))[asked]
        return self._contrast(functional.normalize(outputs[asked], dim=-1), taken, step, hidden=hidden)

    def _pair(self, pairs: I64s, step: Step) -> Contrast:
        return self._contrast(step.of(pairs[0]), pairs[1], step, hidden=self._hidden(pairs, step))

    def _hidden(self, never: I64s, step: Step) -> Tensor:
        """(R, K): question r is not compared with `never[:, r]`, its own answer (which stands apart) and an item itself."""
        hidden = np.zeros((never.shape[1], len(step.pool.rows) + 1), dtype=bool)  # the last column takes what is not in the pool
        np.put_along_axis(hidden, step.column_of()[never].T, True, axis=1)
        return torch.from_numpy(hidden[:, :-1].copy())

    def _contrast(self, queries: Tensor, taken: I64s, step: Step, *, hidden: Tensor) -> Contrast:
        corrected = self.tensors is None and self.config.correction == "same_q"
        return Contrast(
            queries,
            step.of(taken),
            step.of(step.pool.rows),
            self.model.head.temperature(),
            log_q=torch.from_numpy(step.pool.log_q),
            hidden=hidden,
            positive_log_q=torch.from_numpy(step.draws.log_expected(taken).astype(np.float32)) if corrected else None,
        )
