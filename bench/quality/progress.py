"""What the formats are told the time and the progress with: arguments, so that tests need neither.

with bar(60_858, "ranking") as advance: advance(97)
with meter("model") as tell: tell(0.25, 4.2, 0.11)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bench.quality.asking import Advance
from freshet.commands.terminal import err

LINE_SHARE: Final = 0.05
"""Of a training's budget, between two lines in a file."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment."""

Bar: TypeAlias = Callable[[int | None, str], AbstractContextManager[Advance]]
"""A bar of so many steps (None: unknown) and what they are; `freshet.commands.terminal.bar` is one."""

Tell: TypeAlias = Callable[[float, float, float], None]
"""Told the spent part of a training's budget (0 to 1), its loss and its last figure on validation (NaN: none yet)."""

Meter: TypeAlias = Callable[[str], AbstractContextManager[Tell]]
"""A training's bar, by the training's name."""


@dataclass(frozen=True)
class Watch:
    """Both."""

    clock: Clock
    bar: Bar


@contextmanager
def silent(total: int | None, what: str) -> Iterator[Advance]:
    """No bar at all."""
    yield lambda steps: None


@contextmanager
def quiet(what: str) -> Iterator[Tell]:
    """No bar of a training."""
    yield lambda spent, loss, metric: None


@contextmanager
def meter(what: str) -> Iterator[Tell]:
    """A bar on standard error with loss, MRR on validation and the time left; in a file or a pipe a line now and then."""
    if not err.is_terminal:
        yield lines(what, lambda line: err.print(line, highlight=False))
        return
    columns = (TextColumn("training {task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as progress:
        task = progress.add_task(what, total=1.0, told="")
        yield lambda spent, loss, metric: progress.update(task, completed=spent, told=_told(loss, metric))


def lines(what: str, say: Callable[[str], None]) -> Tell:
    """Says a line each time another `LINE_SHARE` of the budget is spent."""
    said = 0

    def tell(spent: float, loss: float, metric: float) -> None:
        nonlocal said
        if (reached := int(spent / LINE_SHARE)) > said:
            said = reached
            say(f"training {what} {spent:4.0%}  {_told(loss, metric)}")

    return tell


def _told(loss: float, metric: float) -> str:
    return f"loss {loss:.3f}, validation MRR {metric:.4f}"
