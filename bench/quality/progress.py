"""What the formats are told the time and the progress with: both arguments, so that tests need neither.

with bar(60_858, "ranking") as advance: advance(97)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from bench.quality.asking import Advance

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment."""

Bar: TypeAlias = Callable[[int | None, str], AbstractContextManager[Advance]]
"""A bar of so many steps (None: unknown) and what they are; `freshet.commands.terminal.bar` is one."""


@contextmanager
def silent(total: int | None, what: str) -> Iterator[Advance]:
    """No bar at all."""
    yield lambda steps: None
