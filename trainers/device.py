"""Where a training computes, and how finely: on the CPU in float32 unless told otherwise.

    name = device_of("auto", asked_by="--device")                    # "cpu" or "cuda"
    with lent(model, device), seeded(0, device): ...                 # the model is back on the CPU afterwards

One code for both: a model is lent to the device while it learns, what comes from numpy follows it where it enters, and whatever is kept,
saved or returned is on the CPU. So who serves or compares never sees where a model was trained.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from trainers.config import BFLOAT16, CPU, CUDA

AUTO: Final = "auto"


def device_of(wanted: str, *, asked_by: str) -> str:
    """`cpu` or `cuda`: for `auto` what there is. `asked_by` names the setting or option.

    Raises ValueError for another name, and for `cuda` where torch sees no such device.
    """
    if wanted == AUTO:
        return CUDA if torch.cuda.is_available() else CPU
    if wanted not in (CPU, CUDA):
        raise ValueError(f"{asked_by} must be cpu, cuda or auto (CUDA where there is a device), not {wanted!r}")
    if wanted == CUDA and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ValueError(
            f"{asked_by} is cuda, but torch {torch.__version__}, {built}, sees no CUDA device here: install the driver and a torch that is "
            "built for it, give the process a device, or set cpu, or auto, which takes CUDA only where it is"
        )
    return wanted


@contextlib.contextmanager
def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module is on the device meanwhile, and on the CPU again afterwards, also after an error."""
    try:
        module.to(device)
        yield
    finally:
        module.cpu()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch draws from this seed meanwhile; the caller's random state is as before afterwards."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == CUDA else []):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """What torch would draw next: `torch` on the CPU, and `cuda` where that is the device."""
    drawn = {"torch": torch.get_rng_state()}
    return drawn | {"cuda": torch.cuda.get_rng_state()} if device.type == CUDA else drawn


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Draw on from there."""
    torch.set_rng_state(state["torch"])
    if device.type == CUDA:
        torch.cuda.set_rng_state(state["cuda"])


def mixed_precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Matrix products meanwhile in bfloat16, if that is the precision; weights, sums and norms stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == BFLOAT16 else contextlib.nullcontext()
