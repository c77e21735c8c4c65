"""What the commands share: two consoles, the options several take, settings from what was given, a progress bar.

out.print("to be read by programs too"); err.print("for the person alone")
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from freshet.settings import Settings

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; default ./data or FRESHET_DATA.")]
Url = Annotated[
    str | None, typer.Option("--url", help="A running server, e.g. http://127.0.0.1:8080; default: the one that holds the folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
"""What several commands take."""
COMPILED_S: Final = 5.0
"""A rehearsal that took longer had to compile."""


def settings_of(**given: Any) -> Settings:
    """The settings, with what the command line gave over the environment."""
    return Settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def bar(total: int | None, what: str = "events") -> Iterator[Any]:
    """A progress bar on standard error; `advance(n)` moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        moved = progress.add_task(what, total=total)
        yield lambda n: progress.advance(moved, n)


def get_ready() -> None:
    """Compile what is compiled, or read it in, before anybody waits for it."""
    from freshet.rehearsal import rehearse

    began = time.monotonic()
    with err.status("getting ready (the first start compiles inner loops: half a minute) ..."):
        rehearse()
    if (took_s := time.monotonic() - began) > COMPILED_S:
        err.print(f"inner loops compiled in {took_s:.0f} s; the next start reads them in", highlight=False)
