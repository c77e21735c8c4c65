"""The training loop of a trunk: windows and a catalogue in, the best weights on the newest events out. Read from top to bottom.

Heads are `trainers/heads_training.py`; whether a candidate goes live is `trainers/gate.py`.

    trained = Trainer(TrainConfig(seconds_max=60.0)).train(columns, features, live=None); trained.model.to_bytes()
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from encoders.base import I64s, ItemFeatures
from encoders.model import Model
from trainers.config import TrainConfig
from trainers.graph import placed, surrounded
from trainers.metrics import summary
from trainers.objective import Objective
from trainers.samples import EventColumns, Windows, windows
from trainers.validation import validation_ranks

Progress = Callable[[int, int, float, float], None]  # step, steps_max, loss, MRR on validation


@dataclass(frozen=True)
class Trained:
    """The best model, in eval mode; its figures on the validation tail; steps and seconds taken, and the step that was best."""

    model: Model
    metrics: dict[str, float]
    steps: int
    best_step: int
    seconds: float


def no_progress(step: int, steps: int, loss: float, metric: float) -> None:
    """Report to nobody."""


class Trainer:
    """Owns the budget and the clock; every `train` starts from nothing or from the live model."""

    def __init__(self, config: TrainConfig, *, clock: Callable[[], float] = time.monotonic, progress: Progress = no_progress) -> None:
        self.config, self.clock, self.progress = config, clock, progress

    def train(self, columns: EventColumns, features: ItemFeatures, live: Model | None = None) -> Trained:
        """The weights that rank the newest `validation_share` of the events best, having learned only from those before.

        Events in log order; events on items without features are passed over. `live` is not changed. Raises ValueError when there is
        nothing to learn from. The caller's torch random state is left alone.
        """
        events = placed(features, columns)
        split = len(events) - max(1, min(int(len(events) * self.config.validation_share), self.config.validation_max))
        if split < 2:
            raise ValueError(f"{len(events)} events on known items are too few to train on; at least 3 are needed")
        model, past = started(self.config, features, live), events.take(slice(0, split))
        known = surrounded(features, past.columns) if self.config.own_graph else features
        newest = windows(events.columns, self.config.model.history_len, asked=np.arange(len(events)) >= split)

        def ask() -> I64s:
            return validation_ranks(model, known, events, asked=newest, exclude_seen=self.config.exclude_seen)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return self._run(model, Objective(self.config, model, features=known, events=past), ask)

    def _run(self, model: Model, objective: Objective, ask: Callable[[], I64s]) -> Trained:
        config, began = self.config, self.clock()
        optimiser = optimiser_of(model, config)
        # The live model (or chance) is the one to beat: a run that makes it worse returns it.
        best, best_step, metrics = weights_of(model), 0, summary(ask())
        step, loss, waited = 0, math.nan, 0
        for step, batch in enumerate(self._batches(objective), start=1):
            spent = max(step / config.steps_max, (self.clock() - began) / config.seconds_max)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step, spent)
            model.train()
            optimiser.zero_grad(set_to_none=True)
            loss = objective.backward(batch)
            torch.nn.utils.clip_grad_norm_(trunk_parameters(model), config.clip_norm)
            optimiser.step()
            if step % config.check_every and spent < 1:
                continue
            model.eval()
            found = summary(ask())
            better = found["MRR"] > metrics["MRR"]
            if better:
                best, best_step, metrics = weights_of(model), step, found
            waited = 0 if better else waited + 1
            self.progress(step, config.steps_max, loss, found["MRR"])
            if spent >= 1 or waited >= config.patience:
                break
        model.load_state_dict(best)
        model.zero_grad(set_to_none=True)
        return Trained(model.eval(), metrics, step, best_step, self.clock() - began)

    def _batches(self, objective: Objective) -> Iterator[Windows]:
        """Windows in random order, cut anew for every pass, without end."""
        random = np.random.default_rng(self.config.seed)
        while True:
            cut = windows(objective.events.columns, self.config.model.history_len, generator=random if self.config.shuffle_ties else None)
            order = random.permutation(len(cut))
            for start in range(0, len(cut), self.config.batch_windows):
                yield cut.take(order[start : start + self.config.batch_windows])


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


def optimiser_of(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trunk, and over the temperature without decay."""
    groups = [
        {"params": trunk_parameters(model), "weight_decay": config.weight_decay},
        {"params": [model.head.log_temperature], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(config: TrainConfig, step: int, spent: float) -> float:
    """Linear warm-up, then half a cosine over the budget: `spent` is the part of it used, 0 to 1."""
    warm = min(1.0, step / max(1, config.warm_up_steps))
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, spent))
    return max(config.learning_rate * warm * cosine, config.learning_rate_min)


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """A copy of every tensor."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
