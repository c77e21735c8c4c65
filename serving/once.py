"""A property that is made when it is first asked for, and kept: `functools.cached_property` without its lock.

    class Context:
        @once
        def votes(self): ...

Until Python 3.12 the standard one holds a lock of the property's, not of the object's, while it makes a value: threads that
answer different users waited for each other. Here two threads that ask one object at once may make its value twice.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Made = TypeVar("Made")


class once(Generic[Made]):  # noqa: N801  # it stands where `property` does
    """For objects with a `__dict__`, in which the value is found from then on."""

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    @overload
    def __get__(self, held: None, kind: type) -> "once[Made]": ...
    @overload
    def __get__(self, held: object, kind: type) -> Made: ...
    def __get__(self, held: object | None, kind: type) -> "once[Made] | Made":
        if held is None:
            return self
        value = held.__dict__[self._make.__name__] = self._make(held)
        return value
