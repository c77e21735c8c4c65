"""The demo: real events through the whole loop, and proof that it learns while it serves.

    outcome = Demo(settings, source, data_name="mine", terms="", told=told).run()

1. The first fifth of the events is history: appended, applied, and a first model trained on it. 2. Every later event is
ranked by all systems before it is applied and visible, one by one, while a producer goes ahead; fine-tuning goes on in a child process and
the gate promotes or refuses in public. 3. The log is replayed into an empty state, and the two digests are compared.
"""

import math
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.clock import now_ms
from freshet.demo.prequential import ABOUT, Contest
from freshet.demo.publishing import published
from freshet.demo.report import Decision, DemoReport, System, write_report
from freshet.engine import Engine
from freshet.learning.training import Outcome, Training
from freshet.readers.source import Row, Source
from freshet.service import Service
from freshet.settings import Settings
from storage.arrays import F64s
from stream.collecting import collect_seldom
from stream.events import Entity
from stream.ingest import EVENTS
from stream.producer import Producer
from stream.replay import digests, history, replay
from trainers.cadence import Cadence

WARM_SHARE: Final = 5
"""The first 1/5 of the events is history."""
FIRST_SECONDS_MAX: Final = 45.0
"""Of the first training: nobody is served meanwhile, and all later ones begin where it ends."""
ENTITIES_AT_ONCE: Final = 500
REPORT_POINTS: Final = 240
NAMED_MAX: Final = 5
"""Lines that are no events are named one by one up to so many."""


@dataclass
class Told:
    """What the demo says as it goes: `line` replaces the live line, `note` stays."""

    line: Callable[[str], None]
    note: Callable[[str], None]


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
    outcomes: list[Outcome] = field(default_factory=list)
    visible_ms: list[float] = field(default_factory=list)

    def run(self) -> DemoOutcome:
        """All three parts. The data folder must be empty."""
        self._began = time.perf_counter()
        rows = in_time_order(self.source, self.events_max)
        with Engine(self.settings) as engine:
            service = Service(engine)
            try:
                return self._run(service, rows)
            finally:
                service.close()

    def _run(self, service: Service, rows: list[Row]) -> DemoOutcome:
        engine = service.engine
        self._catalogue(service)
        contest = Contest(service, len(service.view.catalogue))
        training = Training(
            service, trunk_every=self.settings.trunk_every, seconds_max=self.settings.train_seconds_max,
            cadence=Cadence(self.settings.train_events_min, 10**9, int(1000 * self.settings.train_interval_s)),
        )  # fmt: skip
        self._name_bad(rows)
        warm = len(rows) // WARM_SHARE
        self._warm_up(service, contest, training, rows[:warm])
        try:
            events_per_s = self._stream(service, contest, training, rows[warm:])
            contest.ranks()
        finally:
            training.cancel()
            contest.close()
        live, replayed = self._verify(engine)
        return self._conclude(service, contest, events_per_s, len(rows), (live, replayed))

    def _catalogue(self, service: Service) -> None:
        """Append what is known of the items; an item known by its id alone is one too."""
        known = {entity.id: entity for entity in self.source.entities() if entity.kind == "item"}
        names = self.source.catalogue()
        self.told.note(f"catalogue: {len(names):,} items, {len(known):,} with content")
        bodies = iter(msgspec.json.encode(known.get(name) or Entity(kind="item", id=name, ts_ms=1)) for name in names)
        while chunk := list(islice(bodies, ENTITIES_AT_ONCE)):
            service.engine.append_entities(chunk, now_ms=now_ms())
            service.engine.drain(now_ms=now_ms())

    def _name_bad(self, rows: list[Row]) -> None:
        """Say which lines are no events: each becomes a dead letter."""
        bad = [row for row in rows if row.event is None]
        for row in bad[:NAMED_MAX]:
            self.told.note(f"line {row.line_number:,} is no event and becomes a dead letter: {row.reason} ({row.raw[:60]!r})")
        if len(bad) > NAMED_MAX:
            self.told.note(f"and {len(bad) - NAMED_MAX:,} more lines")

    def _warm_up(self, service: Service, contest: Contest, training: Training, rows: list[Row]) -> None:
        """History in packs, then a first training that the stream waits for."""
        producer = Producer(lambda entries: service.engine.log.append(EVENTS, entries, now_ms=now_ms()), prefix="warm")
        for row in rows:
            _send(producer, row)
            if row.event is not None:
                contest.learn(row.event)
        producer.flush()
        service.engine.drain(now_ms=now_ms())
        self.told.note(f"history: {len(rows):,} events applied; training the first model on them ...")
        training.start(now_ms=now_ms(), events=0, threads=os.cpu_count() or 1, seconds_max=FIRST_SECONDS_MAX)
        begin = time.perf_counter()
        while training.busy:
            service.step(now_ms=now_ms())
            outcome = training.poll(now_ms=now_ms(), events=0)
            self.told.line(f"training the first model: {time.perf_counter() - begin:.0f} s")
            if outcome is not None:
                self._tell(outcome, 0)
            training.wait(0.2)
        contest.frozen = service.pinned = service.current

    def _stream(self, service: Service, contest: Contest, training: Training, rows: list[Row]) -> float:
        """Rank, apply, see: one event after the other as they are published; returns events per second."""
        collect_seldom()
        begin = last = time.perf_counter()
        n = 0
        appended = published(
            lambda bodies: service.engine.append_events(bodies, now_ms=now_ms()), rows, events_per_s=self.events_per_s
        )  # fmt: skip
        for group in appended:
            for row in group.rows:
                if row.event is not None:
                    contest.ask(row.event)
                self._apply(service, group.sent_ns)
                if row.event is not None:
                    contest.learn(row.event)
            n += len(group.rows)
            outcome = training.poll(now_ms=now_ms(), events=n)
            if outcome is not None:
                self._tell(outcome, n)
            if time.perf_counter() - last > 1.0:
                last = time.perf_counter()
                self.told.line(self._live_line(service, contest, n, len(rows), last - begin))
        return len(rows) / max(time.perf_counter() - begin, 1e-9)

    def _apply(self, service: Service, sent_ns: int) -> None:
        """Apply one record; from now on look-ups see it. What is measured began before its append."""
        number = service.engine.applied_number
        service.step(now_ms=now_ms(), records_max=1)
        assert service.view.progress.as_of.number == number, "an event must be visible after the step that applied it"
        self.visible_ms.append((time.perf_counter_ns() - sent_ns) / 1e6)

    def _verify(self, engine: Engine) -> tuple[str, str]:
        self.told.note("replaying the log into an empty state ...")
        live = digests(engine.state, engine.shape.partitions)
        again = replay(history(engine.archive, engine.log), engine.log, engine.shape)
        return live, digests(again, engine.shape.partitions)

    def _conclude(self, service: Service, contest: Contest, events_per_s: float, events: int, digest: tuple[str, str]) -> DemoOutcome:
        tallies, hits = service.engine.tallies, contest.hits()
        visible, lookups = np.array(self.visible_ms), np.array(contest.lookup_ms)
        gains = contest.gains(("frozen", "counting_blend", "popular", "recent", "cooccurrence"), seed=self.seed) if contest.at else {}
        promotions = sum(outcome.promoted for outcome in self.outcomes)
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
            refusals=len(self.outcomes) - promotions,
            digest_live=digest[0],
            digest_replay=digest[1],
            model_version=service.current.live.version if service.current else None,
            seconds=time.perf_counter() - self._began,
            rss_mb=peak_rss_mb() + contest.rss_mb,
        )
        path = self.out / "demo.html"
        write_report(path, self._report(contest, figures, visible, lookups))
        return DemoOutcome(figures, self.outcomes, path)

    def _report(self, contest: Contest, figures: Figures, visible: F64s, lookups: F64s) -> DemoReport:
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
            decisions=tuple(Decision(o.events, o.version, o.promoted, o.reason, o.numbers) for o in self.outcomes),
            visible_ms=visible,
            lookup_ms=lookups,
            window=window,
            rss_mb=figures.rss_mb,
            digest_live=figures.digest_live,
            digest_replay=figures.digest_replay,
        )

    def _tell(self, outcome: Outcome, at: int) -> None:
        self.outcomes.append(outcome)
        word = "promoted" if outcome.promoted else "refused"
        self.told.note(f"[{at:,} events] gate: {outcome.version} ({outcome.kind}) {word}: {outcome.reason}")

    def _live_line(self, service: Service, contest: Contest, n: int, of: int, spent_s: float) -> str:
        hits = {name: float(hit.mean()) if len(hit) else 0.0 for name, hit in contest.lately(5000).items()}
        shown = " ".join(f"{name} {hits[name]:.3f}" for name in ("model", "popular", "recent", "cooccurrence"))
        version = service.current.live.version if service.current else "none"
        return f"{n:,}/{of:,} {n / spent_s:,.0f} events/s lag {service.engine.lag} | hit@10 {shown} | model {version}"


def in_time_order(source: Source, events_max: int | None = None) -> list[Row]:
    """Rows in order of event time, equal times in file order; a row that is no event stays behind the one before it."""
    rows = list(islice(source, events_max))
    keys, newest = [], 0
    for row in rows:
        newest = row.event.ts_ms if row.event is not None else newest
        keys.append(newest)
    return [rows[n] for n in sorted(range(len(rows)), key=keys.__getitem__)]


def peak_rss_mb() -> float:
    """Peak memory of this process and of the largest child that has ended, added: both may have stood at once. What a child has at
    its birth is its parent's, and counts here too.
    """
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _send(producer: Producer, row: Row) -> None:
    if row.event is not None:
        producer.send(row.event)
    else:
        producer.send_raw(row.raw)


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
