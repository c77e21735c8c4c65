"""The demo: real events through the whole loop, and proof that it learns while it serves.

    outcome = Demo(settings, source, data_name="mine", terms="", told=told).run()

The events go through the whole loop (`freshet/demo/loop.py`); then the log is replayed into an empty state, and the two digests are
compared.
"""

import math
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.demo.loop import Loop, Told, in_time_order
from freshet.demo.prequential import ABOUT
from freshet.demo.report import Decision, DemoReport, System, write_report
from freshet.engine import Engine
from freshet.learning.training import Outcome
from freshet.readers.source import Source
from freshet.service import Service
from freshet.settings import Settings
from storage.arrays import F64s
from stream.replay import digests, history, replay

REPORT_POINTS: Final = 240


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The demo's last line. `gain_over`: low, mean and high of the model's gain in hit rate over a system (95 %)."""

    bench: str = "demo"
    data: str
    events: int
    accepted: int
    dead_letters: int
    ranked: int
    events_per_s: float
    hit_at_10: dict[str, float]
    gain_over: dict[str, tuple[float, float, float]]
    visible_ms: dict[str, float]
    lookup_ms: dict[str, float]
    promotions: int
    refusals: int
    digest_live: str
    digest_replay: str
    model_version: str | None
    seconds: float
    rss_mb: float

    def json(self) -> str:
        """One line."""
        return msgspec.json.encode(asdict(self)).decode()


@dataclass(frozen=True)
class DemoOutcome:
    """What came of one demo: its figures, the gate's decisions, and where the report lies."""

    figures: Figures
    outcomes: list[Outcome]
    report: Path


@dataclass
class Demo:
    """One run over one source into an empty folder."""

    settings: Settings
    source: Source
    data_name: str
    terms: str
    told: Told
    seed: int = 0
    events_max: int | None = None
    events_per_s: float = math.inf
    out: Path = Path("out")

    def run(self) -> DemoOutcome:
        """All of it. The data folder must be empty."""
        self._began = time.perf_counter()
        rows = in_time_order(self.source, self.events_max)
        with Engine(self.settings) as engine:
            service = Service(engine)
            try:
                loop = Loop(service, self.source, self.told, events_per_s=self.events_per_s)
                events_per_s = loop.run(rows)
                return self._conclude(loop, events_per_s, len(rows), self._verify(engine))
            finally:
                service.close()

    def _verify(self, engine: Engine) -> tuple[str, str]:
        self.told.note("replaying the log into an empty state ...")
        live = digests(engine.state, engine.shape.partitions)
        again = replay(history(engine.archive, engine.log), engine.log, engine.shape)
        return live, digests(again, engine.shape.partitions)

    def _conclude(self, loop: Loop, events_per_s: float, events: int, digest: tuple[str, str]) -> DemoOutcome:
        service, contest = loop.service, loop.contest
        tallies, hits = service.engine.tallies, contest.hits()
        visible, lookups = np.array(loop.visible_ms), np.array(contest.lookup_ms)
        gains = contest.gains(("frozen", "counting_blend", "popular", "recent", "cooccurrence"), seed=self.seed) if contest.at else {}
        promotions = sum(outcome.promoted for outcome in loop.outcomes)
        figures = Figures(
            data=self.data_name,
            events=events,
            accepted=tallies.accepted,
            dead_letters=sum(tallies.dead_letters.values()),
            ranked=len(contest.at),
            events_per_s=events_per_s,
            hit_at_10={name: float(hit.mean()) if len(hit) else 0.0 for name, hit in hits.items()},
            gain_over={name: (gain.low, gain.mean, gain.high) for name, gain in gains.items()},
            visible_ms=_percentiles(visible),
            lookup_ms=_percentiles(lookups),
            promotions=promotions,
            refusals=len(loop.outcomes) - promotions,
            digest_live=digest[0],
            digest_replay=digest[1],
            model_version=service.current.live.version if service.current else None,
            seconds=time.perf_counter() - self._began,
            rss_mb=peak_rss_mb() + contest.rss_mb,
        )
        path = self.out / "demo.html"
        write_report(path, self._report(loop, figures, visible, lookups))
        return DemoOutcome(figures, loop.outcomes, path)

    def _report(self, loop: Loop, figures: Figures, visible: F64s, lookups: F64s) -> DemoReport:
        contest = loop.contest
        window = max(200, len(contest.at) // 20)
        return DemoReport(
            data=self.data_name,
            terms=self.terms,
            events=figures.events,
            accepted=figures.accepted,
            dead_letters=figures.dead_letters,
            events_per_s=figures.events_per_s,
            seconds=figures.seconds,
            model_version=str(figures.model_version),
            systems=tuple(_system(name, hit, np.array(contest.at, dtype=np.float64), window) for name, hit in contest.hits().items()),
            decisions=tuple(Decision(o.events, o.version, o.promoted, o.reason, o.numbers) for o in loop.outcomes),
            visible_ms=visible,
            lookup_ms=lookups,
            window=window,
            rss_mb=figures.rss_mb,
            digest_live=figures.digest_live,
            digest_replay=figures.digest_replay,
        )


def peak_rss_mb() -> float:
    """Peak memory of this process and of the largest child that has ended, added: both may have stood at once. What a child has at
    its birth is its parent's, and counts here too.
    """
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _system(name: str, hits: F64s, at: F64s, window: int) -> System:
    """A moving mean of at most REPORT_POINTS points, and the mean with its normal 95 % interval."""
    if len(hits) < 2:
        return System(name, ABOUT[name], 0.0, 0.0, 0.0, np.empty(0), np.empty(0))
    total = np.concatenate([[0.0], np.cumsum(hits)])
    ends = np.unique(np.linspace(min(window, len(hits)), len(hits), REPORT_POINTS).astype(np.int64))
    begins = np.maximum(0, ends - window)
    half = 1.96 * float(hits.std()) / float(np.sqrt(len(hits)))
    mean = float(hits.mean())
    return System(name, ABOUT[name], mean, mean - half, mean + half, at[ends - 1], (total[ends] - total[begins]) / (ends - begins))


def _percentiles(values: F64s) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) if len(values) else 0.0 for q in (50, 99)}
