"""What `freshet demo` runs on: which data, into which folder, and how it speaks while it runs."""

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from freshet.demo.loop import Told
from freshet.demo.recbole import DATA_NAME, TERMS, DataUnavailable, fetch_movielens
from freshet.demo.run import Demo, DemoOutcome
from freshet.readers.choose import open_events
from freshet.readers.source import Source
from freshet.settings import Settings
from freshet.world.events import World, WorldConfig

CACHE: Final = Path(".cache")
PLAIN_LINE_S: Final = 10.0
"""Without a terminal the live line is printed this seldom."""


def run_demo(  # the options of the command
    *, data: Path | None, use_world: bool, events_max: int | None, events_per_s: float, report: Path, seed: int, console: Console
) -> DemoOutcome:
    """Choose the data, run in a folder that is thrown away, and return what came of it. `events_per_s` 0: as fast as it goes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="freshet-demo-") as folder:
        source, name, terms = _source(data, use_world, Path(folder), seed, console)
        console.print(f"data: {name} ({source.name}, {source.rows:,} lines)", highlight=False)
        if terms:
            console.print(terms, style="dim", highlight=False)
        settings = Settings(data=Path(folder) / "data", train_events_min=2000, train_interval_s=0, trunk_every=1, train_seconds_max=30)
        demo = Demo(
            settings, source, data_name=name, terms=terms, told=_told(console), seed=seed, events_max=events_max,
            events_per_s=events_per_s or math.inf, out=report,
        )  # fmt: skip
        return demo.run()


def _source(data: Path | None, use_world: bool, folder: Path, seed: int, console: Console) -> tuple[Source, str, str]:
    if data is not None:
        return open_events(data), f"{data.resolve().parent.name}/{data.stem}", ""
    if not use_world:
        try:
            return open_events(fetch_movielens(CACHE)), DATA_NAME, TERMS
        except DataUnavailable as error:
            console.print(f"{error}\ngoing on with the synthetic world", style="yellow", highlight=False)
    return open_events(World(WorldConfig(seed=seed)).write_csv(folder / "world")), f"world, seed {seed}", ""


def _told(console: Console) -> Told:
    if console.is_terminal:
        status = console.status("")
        status.start()
        return Told(line=status.update, note=lambda text: console.print(text, highlight=False, markup=False))
    last = [time.monotonic()]

    def line(text: str) -> None:
        if time.monotonic() - last[0] >= PLAIN_LINE_S:
            last[0] = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return Told(line=line, note=lambda text: print(text, file=sys.stderr, flush=True))
