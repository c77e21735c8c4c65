"""The training loop of a trunk: windows and a catalogue in, the best weights on the newest events out. Read from top to bottom.

Heads are `trainers/heads_training.py`; whether a candidate goes live is `trainers/gate.py`.

    trained = Trainer(TrainConfig(seconds_max=60.0)).train(columns, features, live=None); trained.model.to_bytes()
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from encoders.base import I64s, ItemFeatures
from encoders.model import Model
from trainers.batches import Batches
from trainers.config import TrainConfig
from trainers.device import lent, random_state, seeded, set_random_state
from trainers.graph import placed, surrounded
from trainers.metrics import summary
from trainers.objective import Objective
from trainers.parallel import ALONE, Part
from trainers.samples import EventColumns, Placed, Windows, windows
from trainers.saved import Saved, state_of
from trainers.validation import validation_ranks

OVERTIME: Final = 2.0
"""Times its seconds, for a run that is short of `steps_min`."""
Progress = Callable[[int, int, float, float], None]  # step, steps_max, loss, MRR on validation


@dataclass(frozen=True)
class Trained:
    """The best model, in eval mode and on the CPU; its figures on validation; steps and seconds taken, and the step that was best."""

    model: Model
    metrics: dict[str, float]
    steps: int
    best_step: int
    seconds: float


@dataclass(frozen=True)
class Lesson:
    """What a run learns, on a catalogue's features, and how weights are judged: ranks on validation; without `ask` the last are kept."""

    features: ItemFeatures
    past: Placed
    ask: Callable[[Model], I64s] | None


@dataclass(frozen=True)
class Going:
    """Who is told of a run: `checked` at each check, `stepped` after each step (spent part of the budget, loss), `saving` at each check."""

    checked: Progress = lambda step, steps, loss, metric: None
    stepped: Callable[[float, float], None] = lambda spent, loss: None
    saving: Callable[[Saved], None] | None = None


class Trainer:
    """Owns the budget and the clock; every `train` starts from nothing or from the live model."""

    def __init__(
        self, config: TrainConfig, *, clock: Callable[[], float] = time.monotonic, going: Going | None = None, part: Part = ALONE
    ) -> None:
        """`part`: which of the processes that train together this is; the first one's clock and judgement count for all."""
        self.config, self.clock, self.going, self.part = config, clock, going or Going(), part

    def train(self, columns: EventColumns, features: ItemFeatures, live: Model | None = None) -> Trained:
        """The weights that rank the newest `validation_share` of the events best, having learned only from those before.

        Events in log order; events on items without features are passed over. `live` is not changed. Raises ValueError when there is
        nothing to learn from, and for features that are not finite. The caller's torch random state is left alone.
        """
        features.check_finite()
        events = placed(features, columns)
        split = len(events) - max(1, min(int(len(events) * self.config.validation_share), self.config.validation_max))
        if split < 2:
            raise ValueError(f"{len(events)} events on known items are too few to train on; at least 3 are needed")
        past = events.take(slice(0, split))
        known = surrounded(features, past.columns) if self.config.own_graph else features
        newest = windows(events.columns, self.config.model.history_len, asked=np.arange(len(events)) >= split)

        def ask(model: Model) -> I64s:
            return validation_ranks(model, known, events, asked=newest, exclude_seen=self.config.exclude_seen)

        return self.run(started(self.config, features, live), Lesson(known, past, ask))

    def run(self, model: Model, lesson: Lesson, *, key: str = "", saved: Saved | None = None) -> Trained:
        """Train this model on a lesson cut elsewhere; `saved` (of the same `key`) goes on where it was taken.

        The seconds already spent count. The caller's torch random state is left alone. Raises ValueError without an event to learn from,
        and when a loss is not finite: the weights are then lost.
        """
        device = torch.device(self.config.device)
        with lent(model, device), seeded(self.config.seed + self.part.rank, device):
            objective = Objective(self.config, model, features=lesson.features, events=lesson.past, part=self.part)
            run = _Run(model, objective, self.config)
            if saved is not None:
                run.go_on(saved)
            else:
                run.metrics = _judged(lesson, model)
            return self._run(run, lesson, key)

    def _run(self, run: "_Run", lesson: Lesson, key: str) -> Trained:
        config, began = self.config, self.clock() - run.seconds
        for batch in run.batches():
            run.step += 1
            spent = self.part.agreed(spent_of(config, run.step, self.clock() - began))
            loss = run.learn(batch, learning_rate(config, run.step, spent))
            self.going.stepped(min(1.0, spent), loss)
            if run.step % config.check_every and spent < 1:
                continue
            run.judge({name: self.part.agreed(value) for name, value in _judged(lesson, run.model.eval()).items()})
            run.seconds = self.clock() - began
            self.going.checked(run.step, config.steps_max, loss, run.latest)
            if self.going.saving is not None:
                self.going.saving(run.saved(key))
            if spent >= 1 or run.waited >= config.patience:
                break
        run.model.load_state_dict(run.best)
        run.model.zero_grad(set_to_none=True)
        return Trained(run.model.eval(), run.metrics, run.step, run.best_step, self.clock() - began)


class _Run:
    """Everything that changes while a trunk is trained."""

    def __init__(self, model: Model, objective: Objective, config: TrainConfig) -> None:
        # The live model (or chance) is the one to beat: a run that makes it worse returns it.
        self.model, self.objective, self.config, self.best = model, objective, config, weights_of(model)
        self.optimiser = optimiser_of(model, config, beside=objective.parameters())
        self.metrics: dict[str, float] = {}
        self.step = self.best_step = self.waited = 0
        self.seconds, self.latest = 0.0, math.nan
        self._batches = Batches(objective.events.columns, config)

    def batches(self) -> Iterator[Windows]:
        """Without end."""
        while True:
            yield next(self._batches)

    def learn(self, batch: Windows, rate: float) -> float:
        """One step; returns its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        part, beside = self.objective.part, self.objective.parameters()
        moved = [*trunk_parameters(self.model), self.model.head.log_temperature, *beside]
        loss = part.summed(self.objective.backward(batch))
        if not math.isfinite(loss):
            told = f"the loss of step {self.step} is {loss} at the learning rate {rate:g}"
            raise ValueError(f"{told}: the weights would be lost; train at a lower rate, or anew if the live model's are broken")
        part.sum_gradients(moved)
        torch.nn.utils.clip_grad_norm_(trunk_parameters(self.model), self.config.clip_norm)
        self.optimiser.step()
        return loss

    def judge(self, found: dict[str, float]) -> None:
        """Keep the weights if they rank better than the best so far, or if nobody ranks."""
        better = not found or found["MRR"] > self.metrics["MRR"]
        if better:
            self.best, self.best_step, self.metrics = weights_of(self.model), self.step, found
        self.waited, self.latest = 0 if better else self.waited + 1, found.get("MRR", math.nan)

    def saved(self, key: str) -> Saved:
        """Everything, to go on from."""
        plain = {
            "step": self.step, "best_step": self.best_step, "waited": self.waited, "seconds": self.seconds, "metrics": self.metrics,
            "batches": self._batches.state(), "objective": self.objective.state(),
        }  # fmt: skip
        tensors = {
            "weights": weights_of(self.model), "best": self.best, "random": random_state(self.model.device),
            "sketch": {"counts": torch.from_numpy(self.objective.sketch.counts.copy())},
            "beside": {str(n): _copy(one) for n, one in enumerate(self.objective.parameters())},
        }  # fmt: skip
        return Saved(key, plain, tensors, state_of(self.optimiser))

    def go_on(self, saved: Saved) -> None:
        """Stand where this was saved."""
        plain = saved.plain
        self.step, self.best_step, self.waited = plain["step"], plain["best_step"], plain["waited"]
        self.seconds, self.metrics, self.best = plain["seconds"], plain["metrics"], saved.tensors["best"]
        self.model.load_state_dict(saved.tensors["weights"])
        self.optimiser.load_state_dict(saved.optimiser)
        self._batches.go_on(plain["batches"])
        self.objective.go_on(plain["objective"], saved.tensors["sketch"]["counts"].numpy())
        with torch.no_grad():
            for n, one in enumerate(self.objective.parameters()):
                one.copy_(saved.tensors["beside"][str(n)])
        set_random_state(saved.tensors["random"], self.model.device)


def _judged(lesson: Lesson, model: Model) -> dict[str, float]:
    return summary(lesson.ask(model)) if lesson.ask is not None else {}


def started(config: TrainConfig, features: ItemFeatures, live: Model | None) -> Model:
    """A fresh model whose id table holds the features' items, or the live one's weights with rows for the items born since.

    The vocabulary of a warm start is the live one's and the new ids; rows of known ids carry over, new ones start at zero, which is what an
    item without a row has been embedded with. The head starts as the identity again: the trunk it was fitted to is about to move.
    Raises ValueError if the live model's configuration is another one.
    """
    if live is None:
        return Model.new(config.model, features.ids, seed=config.seed)
    if live.config != config.model:
        raise ValueError(f"a warm start needs the live model's configuration {live.config}, not {config.model}; start without a live model")
    model = Model.new(config.model, np.union1d(live.ids, features.ids), seed=config.seed)
    table = torch.zeros_like(model.tower.ids.weight)
    table[torch.from_numpy(model.id_rows(live.ids))] = live.tower.ids.weight.detach()[1:]
    model.tower.load_state_dict({**live.tower.state_dict(), "ids.weight": table})
    model.user.load_state_dict(live.user.state_dict())
    with torch.no_grad():
        model.head.log_temperature.copy_(live.head.log_temperature)
    return model


def trunk_parameters(model: Model) -> list[torch.nn.Parameter]:
    """What a trunk run moves: item tower and user encoder."""
    return [*model.tower.parameters(), *model.user.parameters()]


def optimiser_of(model: Model, config: TrainConfig, *, beside: Sequence[torch.nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over the trunk and what is learned `beside` it, and over the temperature without decay."""
    groups = [
        {"params": [*trunk_parameters(model), *beside], "weight_decay": config.weight_decay},
        {"params": [model.head.log_temperature], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def spent_of(config: TrainConfig, step: int, seconds: float) -> float:
    """Which part of its budget a run has used: 1 and more when it is over."""
    time = seconds / config.seconds_max
    if step < config.steps_min:
        time = min(time, max(step / config.steps_min, time / OVERTIME))
    return max(step / config.steps_max, time)


def learning_rate(config: TrainConfig, step: int, spent: float) -> float:
    """Linear warm-up, then half a cosine over the budget: `spent` is the part of it used, 0 to 1."""
    warm = min(1.0, step / max(1, config.warm_up_steps))
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, spent))
    return max(config.learning_rate * warm * cosine, config.learning_rate_min)


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """A copy of every tensor, on the CPU."""
    return {name: _copy(tensor) for name, tensor in model.state_dict().items()}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
