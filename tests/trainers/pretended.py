"""A CUDA device that is not there: tensors that say they are on one and are computed on the CPU, and operations that refuse to mix.

    with pretended(): model.to("cuda"); ...

What torch would refuse on a machine with the device is refused here, and a little more: an index on the CPU into what is on the device,
which torch takes along in silence, at the price of waiting. Numbers are the CPU's to the bit; random ones too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.to.device}
"""Operations that may go from one device to the other."""


class OnDevice(Tensor):
    """A tensor of the pretended device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=torch.device("meta"),
            requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """What Python sees; torch's own code, which would look for a driver in a backward pass, sees `meta`."""
        return torch.device("cuda", 0)

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """It has numbers."""
        return False

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own annotation is not what it calls
        cls, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(operation, args, kwargs or {})


class _Factories(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Sees what is made on the device from nothing, too."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(operation, args, kwargs or {})


def computed(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the held numbers; what it makes is where its arguments are, or where it says."""
    given = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)]
    on_device = any(isinstance(one, OnDevice) for one in given)
    if on_device and operation not in CROSSING:
        mixed = [tuple(one.shape) for one in given if not isinstance(one, OnDevice) and one.dim()]
        assert not mixed, f"{operation} mixes what is on the device with tensors of shapes {mixed} on the CPU"
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        on_device = torch.device(wanted).type in ("cuda", "meta")
    elif operation is torch.ops.aten.copy_.default:
        on_device = isinstance(args[0], OnDevice)
    made = operation(*_held(args), **_held(kwargs))
    if operation._schema.is_mutable and made is not None and not isinstance(made, tuple | list):
        return args[0] if isinstance(made, Tensor) else made
    return tree_map(lambda one: OnDevice(one) if on_device and isinstance(one, Tensor) else one, made)


def _held(parts: Any) -> Any:
    return tree_map(lambda one: one.held if isinstance(one, OnDevice) else one, parts)


@contextmanager
def pretended() -> Iterator[None]:
    """There is one CUDA device meanwhile; its random numbers are the CPU's."""
    answers: dict[str, Callable[..., Any]] = {
        "current_device": lambda: 0,
        "get_rng_state": lambda *device: torch.get_rng_state(),
        "set_rng_state": lambda state, *device: None,
    }
    if not torch.cuda.is_available():
        answers["_lazy_init"] = lambda: None
    torch._C._ensureCUDADeviceGuardSet()  # as torch's own fake tensors do: "cuda" needs no driver then
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter on the CPU cannot become one of ours in place
    try:
        with pytest.MonkeyPatch.context() as patched, _Factories():  # type: ignore[no-untyped-call]
            for name, answer in answers.items():
                patched.setattr(torch.cuda, name, answer)
            patched.setattr(torch, "inference_mode", torch.no_grad)  # tensors of our kind cannot be made in that mode
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
