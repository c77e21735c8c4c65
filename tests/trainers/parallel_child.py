"""A training, or its part of one: python -m tests.trainers.parallel_child OUT CHANGES

Writes the first batch's gradients and the weights after a few steps. Nothing is dropped, so that several must give what one gives.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from encoders.model import Model
from tests.trainers.conftest import QUICK, SMALL, built_rings
from trainers.batches import Batches
from trainers.config import TrainConfig
from trainers.graph import surrounded
from trainers.loop import Trainer, trunk_parameters
from trainers.objective import Objective
from trainers.parallel import Part, joined

STEPS = 6


def found(changes: dict[str, Any], part: Part) -> dict[str, torch.Tensor]:
    """Gradients ("g0", ...), their loss, and weights."""
    plain = replace(SMALL, dropout=0.0, id_dropout=0.0, neighbour_dropout=0.0, cold_dropout=0.0)
    config: TrainConfig = replace(QUICK, model=plain, steps_max=STEPS, check_every=3, **{"batch_windows": 9, **changes})
    world = built_rings(users=20, length=10)
    model = Model.new(config.model, world.features.ids, seed=0).train()
    objective = Objective(config, model, features=surrounded(world.features, world.columns), events=world.events, part=part)
    loss = part.summed(objective.backward(next(Batches(world.columns, config))))
    moved = [*trunk_parameters(model), model.head.log_temperature]
    part.sum_gradients(moved)
    gradients = {f"g{n}": parameter.grad for n, parameter in enumerate(moved) if parameter.grad is not None}
    clock = iter(np.arange(part.rank, 1000.0, 1.0 + part.rank).tolist())  # clocks differ
    trained = Trainer(config, clock=lambda: float(next(clock)), part=part).train(world.columns, world.features)
    return {**gradients, "loss": torch.tensor(loss), "best_step": torch.tensor(trained.best_step), **trained.model.state_dict()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined() as own:
        torch.save(found(json.loads(sys.argv[2]), own), f"{sys.argv[1]}-{own.rank}")
