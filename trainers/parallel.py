"""Data-parallel training: every process draws the same batch and the same negatives, learns from its part of the questions, and what all
of them would change is added up before anybody changes anything. So the gradient is that of one process, whatever their number.

    torchrun --nproc-per-node 2 -m freshet.learning.learn JOB.json
    with joined(config.device) as part: Trainer(config, part=part).train(...)

Processes meet as torchrun's environment says; gloo sends what is on the CPU, NCCL what is on CUDA devices, of which each process takes
one. Without torchrun there is one process, and nothing is sent.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import distributed

from encoders.base import I64s
from trainers.config import CPU, CUDA


@dataclass(frozen=True)
class Part:
    """Which of how many processes this one is."""

    rank: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.of:
            raise ValueError(f"rank must lie in 0..{self.of - 1}, not at {self.rank}")

    def share(self, rows: I64s) -> I64s:
        """Every `of`-th row, from the `rank`-th on."""
        return rows[self.rank :: self.of]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Each gradient becomes the sum of all processes'; one that nobody has stays None, so that an optimiser passes it over too."""
        if self.of == 1:
            return
        has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32, device=parameters[0].device)
        flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters] + [has])
        distributed.all_reduce(flat)
        somebody, at = flat[len(flat) - len(parameters) :], 0
        for parameter, count in zip(parameters, somebody.tolist(), strict=True):
            summed = flat[at : at + parameter.numel()].view_as(parameter)
            parameter.grad = summed.clone() if count else None
            at += parameter.numel()

    def summed(self, value: float) -> float:
        """The sum of all processes' values."""
        return self._reduced(value, distributed.ReduceOp.SUM) if self.of > 1 else value

    def agreed(self, value: float) -> float:
        """What the first process says: clocks differ, and all must do the same."""
        return self._reduced(value if self.rank == 0 else float("-inf"), distributed.ReduceOp.MAX) if self.of > 1 else value

    def _reduced(self, value: float, how: distributed.ReduceOp.RedOpType) -> float:
        held = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(held, op=how)
        return float(held)


ALONE: Final = Part()


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextmanager
def joined(device: str = CPU) -> Iterator[Part]:
    """Meet the other processes that torchrun started; alone where it started none. On CUDA each takes the device of its local rank.

    Raises ValueError when there is none for it.
    """
    of = int(os.environ.get("WORLD_SIZE", "1"))
    if of == 1:
        yield ALONE
        return
    if device == CUDA:
        _take_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == CUDA else "gloo")
    try:
        yield Part(distributed.get_rank(), of)
    finally:
        distributed.destroy_process_group()


def _take_device(place: int) -> None:
    found = torch.cuda.device_count()
    if place >= found:
        raise ValueError(f"process {place + 1} of this machine finds {found} CUDA devices: start so many at most, or train on the CPU")
    torch.cuda.set_device(place)
