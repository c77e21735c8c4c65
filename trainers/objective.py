"""One training step's objective: embed what the batch needs once; ask windows for their next and later items, items for their neighbours,
features for whose they are.

loss = Objective(config, model, features=features, events=events).backward(batch)      # gradients are in the parameters
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoders.base import F64s, I64s, ItemFeatures
from encoders.model import Model
from encoders.unified import ItemTensors
from trainers.config import TrainConfig
from trainers.device import mixed_precision
from trainers.features import FeatureQueries, feature_questions
from trainers.losses import Contrast, carry_on, chunked_gradients, nested
from trainers.negatives import CountMin, Draws, Pool, mixed_pool
from trainers.parallel import ALONE, Part
from trainers.samples import Placed, Windows, later
from trainers.seen import seen_before
from trainers.validation import window_outputs


@dataclass(frozen=True)
class Step:
    """What the losses of one step share: vectors of all it touches, where each catalogue row stands among them, and the pool."""

    vectors: Tensor
    place: I64s
    pool: Pool
    draws: Draws | None

    def of(self, rows: I64s) -> Tensor:
        """Vectors of these catalogue rows."""
        return self.vectors[torch.from_numpy(self.place[rows]).to(self.vectors.device)]

    def among(self, rows: I64s) -> "Step":
        """The same, with these as the pool: all there are of their kind, so nothing is corrected."""
        return Step(self.vectors, self.place, Pool(rows, np.zeros(len(rows), dtype=np.float32)), None)

    def column_of(self) -> I64s:
        """(I,) column of each catalogue row in the pool, -1 = not in it."""
        columns = np.full(len(self.place), -1, dtype=np.int64)
        columns[self.pool.rows] = np.arange(len(self.pool.rows))
        return columns


@dataclass(frozen=True)
class Asked:
    """What a step asks beside each window's next items.

    futures (W, L): a later action for each slot, as a position in the events, -1 = none; pairs (2, P): items and a neighbour of each;
    described (2, F): whose feature is shown, and the item it is to find.
    """

    futures: I64s
    pairs: I64s
    described: I64s


class Objective:
    """λ_s (L_next + L_fut) + λ_p L_pair + λ_f L_feat (papers, 1.3) on one catalogue, `features`, which the events' rows point into.

    Each is asked of the whole vector and, if the configuration says so, of its prefixes.
    """

    def __init__(self, config: TrainConfig, model: Model, *, features: ItemFeatures, events: Placed, part: Part = ALONE) -> None:
        """`part`: of each batch's questions this process asks its share, among the negatives of the whole batch."""
        self.part = part
        self.config, self.model, self.features, self.events = config, model, features, events
        self.whole = len(features) <= config.whole_max
        self.tensors = model.item_tensors(features) if self.whole else None
        self.random = np.random.default_rng(config.seed)
        self.sketch = CountMin(tau=config.sketch_tau, seed=config.seed)
        self.drawn = 0
        self.met, self.collections = np.unique(events.rows), np.arange(features.items, len(features))
        self.sources = np.flatnonzero((features.neighbours >= 0).any(axis=1))
        self.queries = FeatureQueries.new(model.config, features, seed=config.seed).to(model.device) if config.feature_weight else None

    def backward(self, batch: Windows) -> float:
        """Leaves the gradients of the batch's loss in the parameters and returns the loss; of this part of it, where there are several."""
        taken, asked = self._taken(batch), self._asked(batch)
        step = self._step(batch, taken, asked)
        losses = [*self._of_windows(batch, asked.futures, step), *self._of_items(asked, step)]
        if not losses:
            return 0.0
        widths, width_weight = self.config.prefixes, self.config.prefix_weight
        parts = [part for weight, contrast in losses for part in nested(contrast, weight, widths, width_weight)]
        carried = [chunked_gradients(contrast, chunk=self.config.chunk_rows, weight=weight) for weight, contrast in parts]
        carry_on([part for _, parts in carried for part in parts])
        return sum(value for value, _ in carried)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is learned for the objective's sake and is no part of the model."""
        return [] if self.queries is None else list(self.queries.parameters())

    def _asked(self, batch: Windows) -> Asked:
        """The same draws in every process that trains along."""
        config, nothing = self.config, np.empty((2, 0), dtype=np.int64)
        pairs = self._pairs() if config.pair_weight and len(self.sources) else nothing
        described = nothing
        if self.queries is not None:
            described = feature_questions(self.met, self.features, count=config.pairs, generator=self.random)
        futures = np.full(batch.targets.shape, -1, dtype=np.int64)
        if config.future_weight:
            futures = later(batch, self.events.columns, span_ms=config.future_ms, generator=self.random)
        return Asked(futures, pairs, described)

    def _of_windows(self, batch: Windows, futures: I64s, step: Step) -> list[tuple[float, Contrast]]:
        """Losses of this process' windows, by their share of the questions of all."""
        mine = self.part.share(np.arange(len(batch)))
        own, own_futures = batch.take(mine), futures[mine]
        slots = (own.targets >= 0) | (own_futures >= 0)
        if not slots.any():
            return []
        moved = Placed(self.events.columns, step.place[self.events.rows])
        with self._towers():
            outputs = window_outputs(self.model, step.vectors, moved, cut=own).float()
        asking = outputs[torch.from_numpy(slots).to(outputs.device)]
        users, losses = functional.normalize(asking, dim=-1), list[tuple[float, Contrast]]()
        seen = self._seen(own, step)
        for weight, positions, of_all in (
            (self.config.next_weight, own.targets, batch.targets),
            (self.config.future_weight, own_futures, futures),
        ):
            wanted = positions >= 0
            if weight and wanted.any():
                taken, among = self.events.rows[positions[wanted]], torch.from_numpy(wanted[slots]).to(users.device)
                hidden = self._hidden(taken[None], step)
                if seen is not None:
                    hidden |= seen[torch.from_numpy(wanted)]
                share = weight * len(taken) / int((of_all >= 0).sum())
                losses.append((share, self._contrast(users if wanted[slots].all() else users[among], taken, step, hidden=hidden)))
        return losses

    def _of_items(self, asked: Asked, step: Step) -> list[tuple[float, Contrast]]:
        """Losses of this process' pairs and features, by their share of all."""
        losses = list[tuple[float, Contrast]]()
        pairs = asked.pairs[:, self.part.share(np.arange(asked.pairs.shape[1]))]
        to_items = pairs[1] < self.features.items
        for pool, chosen in ((step, pairs[:, to_items]), (step.among(self.collections), pairs[:, ~to_items])):
            if chosen.size:
                contrast = self._contrast(step.of(chosen[0]), chosen[1], pool, hidden=self._hidden(chosen, pool))
                losses.append((self.config.pair_weight * chosen.size / asked.pairs.size, contrast))
        described = asked.described[:, self.part.share(np.arange(asked.described.shape[1]))]
        if self.queries is None or not described.size:
            return losses
        never = np.concatenate([described, self.features.neighbours[described[1]].T])  # who else is near is no wrong answer
        hidden = self._hidden(never, step)
        with self._towers():
            asking = [(chosen, queries.float()) for chosen, queries in self.queries(self.model, described[0])]
        for chosen, queries in asking:
            among = self._contrast(queries, described[1][chosen], step, hidden=hidden[torch.from_numpy(chosen)])
            losses.append((self.config.feature_weight * len(chosen) / asked.described.shape[1], among))
        return losses

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

    def _step(self, batch: Windows, taken: I64s, asked: Asked) -> Step:
        """Every item the step touches is embedded once, with gradients: the whole catalogue where that is small."""
        drawn = taken if self.config.in_batch else taken[:0]
        draws = Draws(self.features.ids[: self.features.items], self.sketch, len(drawn), self.config.uniform)
        if self.tensors is not None:
            pool = Pool(self.met, np.zeros(len(self.met), dtype=np.float32))  # that nobody met an item says nothing against it
            return Step(self._embedded(self.tensors), np.arange(len(self.features)), pool, draws)
        self.drawn += len(taken)
        self.sketch.see(self.features.ids[taken], self.drawn)
        pool = mixed_pool(drawn, draws, self.random)
        if self.config.correction == "off":
            pool = Pool(pool.rows, np.zeros_like(pool.log_q))
        heard, futures = (self.events.rows[positions[positions >= 0]] for positions in (batch.inputs, asked.futures))
        needed = np.unique(np.concatenate([heard, taken, futures, pool.rows, asked.pairs.ravel(), asked.described[1], self._others(asked)]))
        place = np.zeros(len(self.features), dtype=np.int64)
        place[needed] = np.arange(len(needed))
        tensors = self.model.item_tensors(self.features.around(needed))
        return Step(self._embedded(tensors, len(needed)), place, pool, draws)

    def _embedded(self, tensors: ItemTensors, asked: int | None = None) -> Tensor:
        with self._towers():
            vectors: Tensor = self.model.tower(tensors, asked)
        return vectors.float()

    def _towers(self) -> AbstractContextManager[object]:
        """The towers' precision; what the losses make of their vectors is float32."""
        return mixed_precision(self.config.precision, self.model.device)

    def _others(self, asked: Asked) -> I64s:
        """What collections that are to be found are told from: all others of them."""
        return self.collections if (asked.pairs[1] >= self.features.items).any() else self.collections[:0]

    def _pairs(self) -> I64s:
        """(2, P): items and one neighbour of each, by its share of the weight."""
        chosen = self.random.choice(self.sources, size=self.config.pairs)
        around = self.features.neighbours[chosen]
        weights = np.where(around >= 0, self.features.weights[chosen], 0.0).cumsum(axis=1)
        slots = (weights <= self.random.random((len(chosen), 1)) * weights[:, -1:]).sum(axis=1)
        others = around[np.arange(len(chosen)), slots.clip(max=around.shape[1] - 1)]
        return np.stack([chosen, others])[:, others >= 0]

    def _seen(self, batch: Windows, step: Step) -> Tensor | None:
        """(W, L, K): what each slot's user has had; None where that is a candidate all the same."""
        if not self.config.exclude_seen:
            return None
        return seen_before(batch, self.events.rows, column_of=step.column_of(), width=len(step.pool.rows))

    def _hidden(self, never: I64s, step: Step) -> Tensor:
        """(R, K): question r is not compared with `never[:, r]`, its own answer (which stands apart) and an item itself; -1 = nobody."""
        hidden = np.zeros((never.shape[1], len(step.pool.rows) + 1), dtype=bool)  # the last column takes what is not in the pool
        columns = np.where(never >= 0, step.column_of()[never], -1)
        np.put_along_axis(hidden, columns.T, True, axis=1)
        return torch.from_numpy(hidden[:, :-1].copy())

    def _contrast(self, queries: Tensor, taken: I64s, step: Step, *, hidden: Tensor) -> Contrast:
        draws = step.draws if self.tensors is None and self.config.correction == "same_q" else None
        corrected = None if draws is None else torch.from_numpy(draws.log_expected(taken).astype(np.float32)).to(queries.device)
        return Contrast(
            queries,
            step.of(taken),
            step.of(step.pool.rows),
            self.model.head.temperature(),
            log_q=torch.from_numpy(step.pool.log_q).to(queries.device),
            hidden=hidden.to(queries.device),
            positive_log_q=corrected,
        )
