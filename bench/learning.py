"""What learning while serving is worth: hit@10 over time without any training, with heads alone, and with trunks and heads.

    python -m bench.learning [--data u.data ...] [--no-world] [--events-per-s 300] [--out out]

The product's loop (`freshet/demo/loop.py`) over each file and over a synthetic world whose users change their tastes at one planted moment,
three times each: without a training after the first, with trainings of heads alone, and with every second one a trunk. `none` is model and
weights as the warm-up left them, over the same live counts. The stream comes at a fixed pace, so that trainings lie as many events apart on
any machine that keeps up. Beside the hit rates: the events until a system is back after the drift, what the gate decided, seconds of
training, and how long look-ups took beside one; `idle` is how long the same ones took in the pass without any. A page with the curves is
left for each source in OUT. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from bench.machine import versions
from bench.one_thread import one_thread
from freshet.commands.demo import CACHE
from freshet.demo.loop import WARM_SHARE, Loop, Told, in_time_order
from freshet.demo.recbole import DATA_NAME, DataUnavailable, fetch_movielens
from freshet.demo.report import Decision, DemoReport, System, write_report
from freshet.engine import Engine
from freshet.readers.choose import open_events
from freshet.readers.source import Row, Source, UnknownLayout
from freshet.service import Service
from freshet.settings import Settings
from freshet.world.events import World, WorldConfig
from storage.arrays import F64s, I64s

EVENTS_PER_S: Final = 300.0
TRAIN_EVENTS: Final = 2000
TRAIN_SECONDS: Final = 15.0
NONE, WEIGHTS, HEADS, BOTH = "none", "weights", "heads", "trunks_and_heads"
NEVER: Final = 10**9
CONTROLS: Final = ("counting_blend", "popular", "cooccurrence")
ABOUT: Final = {
    NONE: "model and weights as the warm-up left them, over live counts",
    WEIGHTS: "the warm-up's model, weights learned by question",
    HEADS: "heads trained on what came, one trunk, weights learned by question",
    BOTH: "every second training a trunk, the others heads, weights learned by question",
    "counting_blend": "the counts alone, their weights fitted anew by each training",
    "popular": "how often an item was taken",
    "cooccurrence": "sequential rules",
}
CURVE_POINTS: Final = 60
BACK_SHARE: Final = 0.95
"""Of the hit rate before the drift: who reaches it again is back."""
BEFORE_EVENTS: Final = 3000
WINDOW: Final = 1000
LOOKUP_RATIO_MAX: Final = 1.5
WORLD: Final = WorldConfig(seed=1, users=800, items=600, events=40_000)


@dataclass(frozen=True)
class Stream:
    """A source and its name; `drift_ms` where a drift was planted."""

    source: Source
    name: str
    drift_ms: int | None = None


@dataclass(frozen=True)
class Way:
    """Of training, after the first one: every so many events, and which of them trains a trunk."""

    train_events: int
    trunk_every: int


@dataclass(frozen=True)
class Ran:
    """One pass: the loop, which knows ranks, decisions and times, and what its server said at the end."""

    loop: Loop
    accepted: int
    dead_letters: int
    version: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, print; 2 and a message for a file that is no stream of events."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", type=Path, help="files of timed events; left out, MovieLens-100K as the demo fetches it")
    parser.add_argument("--no-world", action="store_true", help="without the synthetic world")
    parser.add_argument("--events-per-s", type=float, default=EVENTS_PER_S, help=f"pace of the stream (default {EVENTS_PER_S:g})")
    parser.add_argument("--events", type=int, help="of each source at most so many")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the pages are left (default out)")
    options = parser.parse_args(arguments)
    one_thread()
    with tempfile.TemporaryDirectory(prefix="freshet-learning-") as folder:
        try:
            streams = streams_of(options.data, Path(folder), world=not options.no_world)
        except (UnknownLayout, DataUnavailable) as error:
            print(error, file=sys.stderr)
            return 2
        found = {
            stream.name: measure(stream, events_per_s=options.events_per_s, events_max=options.events, out=options.out, say=_say)
            for stream in streams
        }
    print(json.dumps({"bench": "learning", "events_per_s": options.events_per_s, "streams": found, **versions()}))
    return 0


def streams_of(data: Sequence[Path] | None, folder: Path, *, world: bool) -> list[Stream]:
    """The files, or MovieLens-100K; and the world."""
    paths = data or [fetch_movielens(CACHE)]
    streams = [Stream(open_events(path), f"{path.resolve().parent.name}/{path.stem}" if data else DATA_NAME) for path in paths]
    if world:
        made = World(WORLD)
        streams.append(Stream(open_events(made.write_csv(folder / "world")), f"world, seed {WORLD.seed}", made.truth.drift_ms))
    return streams


def measure(stream: Stream, *, events_per_s: float, events_max: int | None, out: Path, say: Callable[[str], None]) -> dict[str, object]:
    """Each way of training over one source."""
    rows = in_time_order(stream.source, events_max)
    ways = {WEIGHTS: Way(NEVER, NEVER), HEADS: Way(TRAIN_EVENTS, NEVER), BOTH: Way(TRAIN_EVENTS, 2)}
    ran = {}
    for name, way in ways.items():
        ran[name] = run(stream, rows, way, events_per_s=events_per_s, say=partial(_say_of, say, f"{stream.name}, {name}"))
    loops = {name: one.loop for name, one in ran.items()}
    hits, at = {name: loop.contest.hits() for name, loop in loops.items()}, np.array(loops[BOTH].contest.at, dtype=np.int64)
    systems = {NONE: hits[BOTH]["frozen"]}
    systems |= {name: of["model"] for name, of in hits.items()} | {name: hits[BOTH][name] for name in CONTROLS}
    drift = drifted_at(stream, rows)
    for name, one in ran.items():
        _write_page(_page_path(out, stream.name, name), one, f"{stream.name}, {name.replace('_', ' ')}", _drawn(systems, at, first=name))
    return {
        "events": len(rows), "ranked": len(at),
        "hit_at_10": {name: float(of.mean()) for name, of in systems.items()},
        "curves": {name: curve(of, at) for name, of in systems.items()},
        "drift_at": drift,
        "back_after": None if drift is None else {name: back_after(of, at, drift) for name, of in systems.items()},
        "gate": {name: _decisions(loop) for name, loop in loops.items()},
        "training_s_per_10k_events": {name: 1e4 * loop.training_s / len(rows) for name, loop in loops.items()},
        "lookup_p99_ms": {
            name: lookups(loops[name].contest.lookup_ms, loops[name].beside, idle_ms=loops[WEIGHTS].contest.lookup_ms)
            for name in (HEADS, BOTH)
        },
    }  # fmt: skip


def run(stream: Stream, rows: list[Row], way: Way, *, events_per_s: float, say: Callable[[str], None]) -> Ran:
    """One pass in a folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="freshet-learning-") as folder:
        settings = Settings(
            data=Path(folder), train_events_min=way.train_events, train_interval_s=0, trunk_every=way.trunk_every,
            train_seconds_max=TRAIN_SECONDS,
        )  # fmt: skip
        with Engine(settings) as engine:
            service = Service(engine)
            try:
                loop = Loop(service, stream.source, Told(line=lambda text: None, note=say), events_per_s=events_per_s)
                pace = loop.run(rows)
                tallies, live = engine.tallies, service.current
            finally:
                service.close()
    version = live.live.version if live else "none"
    return Ran(loop, tallies.accepted, sum(tallies.dead_letters.values()), version, len(rows) / pace)


def drifted_at(stream: Stream, rows: list[Row]) -> int | None:
    """How many questions may have been asked when the drift came; None without one, or if the stream ends before it."""
    if stream.drift_ms is None:
        return None
    asked = [row.event.ts_ms for row in rows[len(rows) // WARM_SHARE :] if row.event is not None]
    before = sum(time < stream.drift_ms for time in asked)
    return before if 0 < before < len(asked) else None


def curve(hits: F64s, at: I64s) -> list[tuple[int, float]]:
    """(events asked, mean of the last WINDOW ranked) at up to CURVE_POINTS moments."""
    total = np.concatenate([[0.0], np.cumsum(hits)])
    ends = np.unique(np.linspace(min(WINDOW, len(hits)), len(hits), CURVE_POINTS).astype(np.int64)) if len(hits) else np.zeros(0, np.int64)
    begins = np.maximum(0, ends - WINDOW)
    return list(zip(at[ends - 1].tolist(), ((total[ends] - total[begins]) / (ends - begins)).tolist(), strict=True))


def back_after(hits: F64s, at: I64s, drift: int) -> int | None:
    """Events after the drift at which the mean of WINDOW questions, all asked after it, first reached BACK_SHARE of what it was before.

    None if it never did, or if there were too few on either side.
    """
    first = int(np.searchsorted(at, drift, side="right"))
    if first < WINDOW or len(hits) < first + WINDOW:
        return None
    before = float(hits[max(0, first - BEFORE_EVENTS) : first].mean())
    total = np.concatenate([[0.0], np.cumsum(hits[first:])])
    means = (total[WINDOW:] - total[:-WINDOW]) / WINDOW
    reached = np.flatnonzero(means >= BACK_SHARE * before)
    return int(at[first + WINDOW - 1 + reached[0]] - drift) if len(reached) else None


def lookups(timed_ms: Sequence[float], trained: Sequence[bool], *, idle_ms: Sequence[float]) -> dict[str, float | bool | None]:
    """p99 of the look-ups beside which something was trained, and of the same ones where nothing was; whether the ratio is within bounds.

    (Q,) each, in the order of the questions, which are the same in every pass.
    """
    beside = np.array(trained, dtype=np.bool_)
    if not beside.any():
        return {"idle": None, "training": None, "ratio": None, "within": None}
    idle, training = (float(np.percentile(np.array(taken)[beside], 99)) for taken in (idle_ms, timed_ms))
    return {"idle": idle, "training": training, "ratio": training / idle, "within": training <= LOOKUP_RATIO_MAX * idle}


def _decisions(loop: Loop) -> list[dict[str, object]]:
    return [
        {"at": one.events, "version": one.version, "kind": one.kind, "promoted": one.promoted, "reason": one.reason}
        for one in loop.outcomes
    ]  # fmt: skip


def _drawn(systems: dict[str, F64s], at: I64s, *, first: str) -> tuple[System, ...]:
    drawn = []
    for name in sorted(systems, key=lambda name: name != first):
        hits, points = systems[name], np.array(curve(systems[name], at), dtype=np.float64).reshape(-1, 2)
        mean, half = float(hits.mean()), 1.96 * float(hits.std()) / max(1, len(hits)) ** 0.5
        drawn.append(System(name, ABOUT[name], mean, mean - half, mean + half, points[:, 0], points[:, 1]))
    return tuple(drawn)


def _write_page(path: Path, ran: Ran, title: str, drawn: tuple[System, ...]) -> None:
    """The demo's page of one pass."""
    loop, events = ran.loop, ran.accepted + ran.dead_letters
    report = DemoReport(
        data=title, terms="", events=events, accepted=ran.accepted, dead_letters=ran.dead_letters, events_per_s=events / ran.seconds,
        seconds=ran.seconds, model_version=ran.version, systems=drawn,
        decisions=tuple(Decision(one.events, one.version, one.promoted, one.reason, one.numbers) for one in loop.outcomes),
        visible_ms=np.array(loop.visible_ms), lookup_ms=np.array(loop.contest.lookup_ms), window=WINDOW,
    )  # fmt: skip
    write_report(path, report)


def _page_path(out: Path, stream: str, way: str) -> Path:
    return out / f"learning-{''.join(letter if letter.isalnum() else '-' for letter in f'{stream} {way}'.lower())}.html"


def _say_of(say: Callable[[str], None], what: str, text: str) -> None:
    say(f"{what}: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
