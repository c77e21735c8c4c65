"""Events through the whole loop, asked before they are applied: what the demo shows and `bench.quality prequential` measures.

    loop = Loop(service, source, told=told); loop.run(rows); loop.contest.ranks()

1. The first fifth of the events is history: appended, applied, and a first model trained on it. 2. Every later event is
ranked by all systems before it is applied and visible, one by one, while a producer goes ahead; fine-tuning goes on in a child process and
the gate promotes or refuses.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

import msgspec

from freshet.clock import now_ms
from freshet.demo.prequential import Contest
from freshet.demo.publishing import published
from freshet.learning.training import Outcome, Plan, Training
from freshet.readers.source import Row, Source
from freshet.service import Service
from stream.collecting import collect_seldom
from stream.events import Entity
from stream.ingest import EVENTS
from stream.producer import Producer
from trainers.cadence import Cadence

WARM_SHARE: Final = 5
"""The first 1/5 of the events is history."""
FIRST_SECONDS_MAX: Final = 45.0
"""Of the first training: nobody is served meanwhile, and all later ones begin where it ends."""
ENTITIES_AT_ONCE: Final = 500
NAMED_MAX: Final = 5
"""Lines that are no events are named one by one up to so many."""
WAIT_S: Final = 0.2


@dataclass
class Told:
    """What the loop says as it goes: `line` replaces the live line, `note` stays."""

    line: Callable[[str], None]
    note: Callable[[str], None]


@dataclass
class Loop:
    """One run over one source through an empty service, whose settings say when and how long is trained.

    With `waits` the stream stands still while a training runs, which then has all cores: what is learned does not depend on how fast this
    machine streams. With `anew` each trunk begins from nothing, not from the live one.
    """

    service: Service
    source: Source
    told: Told
    events_per_s: float = math.inf
    waits: bool = False
    anew: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    visible_ms: list[float] = field(default_factory=list)
    beside: list[bool] = field(default_factory=list)
    """Of each look-up that was timed, whether a training ran beside it."""
    training_s: float = 0.0
    """Wall time of trainings, the first one's too."""

    def run(self, rows: list[Row]) -> float:
        """Rows in the order of their times; returns events per second. `contest` has the ranks, also while it runs; close it."""
        self._catalogue()
        settings = self.service.engine.settings
        self.contest = Contest(self.service, len(self.service.view.catalogue))
        self._plan = Plan(
            settings.trunk_every, settings.train_seconds_max, threads=_cores() if self.waits else 1, anew=self.anew,
            device=settings.train_device, precision=settings.train_precision,
        )  # fmt: skip
        cadence = Cadence(settings.train_events_min, 10**9, int(1000 * settings.train_interval_s))
        training = Training(self.service, self._plan, cadence=cadence)
        self._name_bad(rows)
        warm = len(rows) // WARM_SHARE
        try:
            self._warm_up(training, rows[:warm])
            events_per_s = self._stream(training, rows[warm:])
            self.contest.ranks()
        finally:
            training.cancel()
            self.contest.close()
        return events_per_s

    def _catalogue(self) -> None:
        """Append what is known of the items; an item known by its id alone is one too."""
        known = {entity.id: entity for entity in self.source.entities() if entity.kind == "item"}
        names = self.source.catalogue()
        self.told.note(f"catalogue: {len(names):,} items, {len(known):,} with content")
        bodies = iter(msgspec.json.encode(known.get(name) or Entity(kind="item", id=name, ts_ms=1)) for name in names)
        while chunk := list(islice(bodies, ENTITIES_AT_ONCE)):
            self.service.engine.append_entities(chunk, now_ms=now_ms())
            self.service.engine.drain(now_ms=now_ms())

    def _name_bad(self, rows: list[Row]) -> None:
        """Say which lines are no events: each becomes a dead letter."""
        bad = [row for row in rows if row.event is None]
        for row in bad[:NAMED_MAX]:
            self.told.note(f"line {row.line_number:,} is no event and becomes a dead letter: {row.reason} ({row.raw[:60]!r})")
        if len(bad) > NAMED_MAX:
            self.told.note(f"and {len(bad) - NAMED_MAX:,} more lines")

    def _warm_up(self, training: Training, rows: list[Row]) -> None:
        """History in packs, then a first training that the stream waits for."""
        service = self.service
        producer = Producer(lambda entries: service.engine.log.append(EVENTS, entries, now_ms=now_ms()), prefix="warm")
        for row in rows:
            _send(producer, row)
            if row.event is not None:
                self.contest.learn(row.event)
        producer.flush()
        service.engine.drain(now_ms=now_ms())
        self.told.note(f"history: {len(rows):,} events applied; training the first model on them ...")
        training.start(now_ms=now_ms(), events=0, plan=replace(self._plan, threads=_cores(), seconds_max=FIRST_SECONDS_MAX))
        self._wait_for(training, 0)
        self.contest.frozen = service.pinned = service.current

    def _wait_for(self, training: Training, events: int) -> None:
        """Serve nobody and apply nothing until the training has ended: what is published meanwhile is asked about first."""
        begin, what = time.perf_counter(), f"after {events:,} events" if events else "the first model"
        while training.busy:
            self.service.refresh(now_ms=now_ms())
            self._tell(training.poll(now_ms=now_ms(), events=events), events)
            self.told.line(f"training {what}: {time.perf_counter() - begin:.0f} s")
            training.wait(WAIT_S)
        self.training_s += time.perf_counter() - begin

    def _stream(self, training: Training, rows: list[Row]) -> float:
        """Rank, apply, see: one event after the other as they are published; returns events per second."""
        collect_seldom()
        service = self.service
        begin = last = time.perf_counter()
        n = 0
        appended = published(
            lambda bodies: service.engine.append_events(bodies, now_ms=now_ms()), rows, events_per_s=self.events_per_s
        )  # fmt: skip
        for group in appended:
            busy, begun = training.busy, time.perf_counter()
            for row in group.rows:
                if row.event is not None:
                    self.contest.ask(row.event)
                self._apply(group.sent_ns)
                if row.event is not None:
                    self.contest.learn(row.event)
            n += len(group.rows)
            self.beside += [busy] * (len(self.contest.lookup_ms) - len(self.beside))
            self.training_s += busy * (time.perf_counter() - begun)
            self._tell(training.poll(now_ms=now_ms(), events=n), n)
            if self.waits:
                self._wait_for(training, n)
            if time.perf_counter() - last > 1.0:
                last = time.perf_counter()
                self.told.line(self._live_line(n, len(rows), last - begin))
        return len(rows) / max(time.perf_counter() - begin, 1e-9)

    def _apply(self, sent_ns: int) -> None:
        """Apply one record; from now on look-ups see it. What is measured began before its append."""
        service = self.service
        number = service.engine.applied_number
        service.step(now_ms=now_ms(), records_max=1)
        assert service.view.progress.as_of.number == number, "an event must be visible after the step that applied it"
        self.visible_ms.append((time.perf_counter_ns() - sent_ns) / 1e6)

    def _tell(self, outcome: Outcome | None, at: int) -> None:
        if outcome is None:
            return
        self.outcomes.append(outcome)
        word = "promoted" if outcome.promoted else "refused"
        self.told.note(f"[{at:,} events] gate: {outcome.version} ({outcome.kind}) {word}: {outcome.reason}")

    def _live_line(self, n: int, of: int, spent_s: float) -> str:
        service = self.service
        hits = {name: float(hit.mean()) if len(hit) else 0.0 for name, hit in self.contest.lately(5000).items()}
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


def _send(producer: Producer, row: Row) -> None:
    if row.event is not None:
        producer.send(row.event)
    else:
        producer.send_raw(row.raw)


def _cores() -> int:
    return os.cpu_count() or 1
