"""Checks, while tests run, that arrays have the shapes and types their annotations name. Free in production.

jaxtyping's import hook puts `checked` on every function of the folders that `conftest.py` names. Only arrays are looked
at, also inside `X | None` and tuples: everything else is mypy's.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from jaxtyping import AbstractArray

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing arguments whose shape or dtype is not the annotated one with a TypeError."""
    signature = inspect.signature(function)
    hints = {name: parameter.annotation for name, parameter in signature.parameters.items() if names_an_array(parameter.annotation)}
    if not hints:
        return function

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        for name, hint in hints.items():
            if name in given and not fits(given[name], hint):
                raise TypeError(f"{name} is not {hint}")
        return function(*args, **kwargs)

    return checking


def is_array_type(hint: object) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def names_an_array(hint: object) -> bool:
    return is_array_type(hint) or any(names_an_array(part) for part in typing.get_args(hint))


def fits(value: object, hint: typing.Any) -> bool:  # a hint may be any object at all
    if is_array_type(hint):
        return isinstance(value, hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        parts = parts[:1] * len(value) if Ellipsis in parts else parts
        return len(value) == len(parts) and all(map(fits, value, parts))
    return hint is not types.NoneType or value is None
