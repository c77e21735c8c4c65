"""The trainer beside the server: when a training is due, its child process, and what becomes of the candidate.

    training = Training(service, Plan(4, seconds_max=60), cadence=Cadence()); outcome = training.poll(now_ms=now_ms, events=accepted)

A training is a child at low priority, so that look-ups keep their time; only its files come back. A candidate of a new
trunk is embedded item by item into a collection of its own before the flip, while the old one answers.
"""

import logging
import shutil
from dataclasses import dataclass

import msgspec

from freshet.learning.child import UNUSABLE, Child
from freshet.learning.job import EVENTS_MAX, HEAD, TRUNK, Job, Report
from freshet.learning.job import Outcome as Outcome
from freshet.service import Loaded, Service
from serving.shadow import Shadow, Shadowed
from storage.models import Damaged, StaleRecord, UnknownVersion, Version
from storage.vectors import VectorsDamaged, VectorsLocked
from trainers.cadence import Cadence, due

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Every so many-th training is of the trunk, each takes so long at most, on so many threads: more than one where nobody is served.

    With `anew` a trunk begins from nothing, not from the live one. Of more than `events_max` events not all are looked at. `device` and
    `precision`: as the settings have them.
    """

    trunk_every: int
    seconds_max: float
    threads: int = 1
    anew: bool = False
    events_max: int = EVENTS_MAX
    device: str = "cpu"
    precision: str = "float32"


@dataclass
class _Running:
    child: Child
    version: str
    generation: int


@dataclass
class _Building:
    loaded: Loaded
    version: Version
    report: Report
    kind: str
    row: int = 0
    told: Shadowed | None = None
    """What was seen of it there."""


class Training:
    """At most one training at a time. Call `poll` often; it never waits."""

    def __init__(self, service: Service, plan: Plan, *, cadence: Cadence, shadow: Shadow | None = None) -> None:
        """With a `shadow` a candidate that the gate lets through stands in it for a while before it goes live."""
        self._service, self._plan, self._cadence, self._shadow = service, plan, cadence, shadow
        self._folder = service.engine.settings.data / "training"
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed parent left: nothing of it was promoted
        self._running: _Running | None = None
        self._building: _Building | None = None
        self._outcome: Outcome | None = None
        """Decided, and not recorded yet."""
        self._last_ms: int | None = None
        self._events_at_last = 0
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether a training runs, its candidate is being embedded, or what became of it is not on record yet."""
        return self._running is not None or self._building is not None or self._outcome is not None

    def poll(self, *, now_ms: int, events: int, drifted: str = "") -> Outcome | None:
        """Start what is due, look after what runs; an outcome when one has just ended. `events`: accepted so far.

        After a drift, told in words, it is the trunk that is trained: a head turns on the items' vectors, which are then old. Raises
        `DiskFull`: what was being done is tried again by the next call.
        """
        if self._outcome is not None:
            return self._record(self._outcome)
        if self._building is not None:
            return self._build(now_ms, events)
        if self._running is not None:
            return self._look(now_ms, events) if self._running.child.ended else None
        why = due(self._cadence, new_events=events - self._events_at_last, now_ms=now_ms, last_ms=self._last_ms, drifted=drifted)
        if why:
            log.info("training_due because=%s", why)
            self.start(now_ms=now_ms, events=events, kind=TRUNK if drifted else None)
        return None

    def start(self, *, now_ms: int, events: int, kind: str | None = None, plan: Plan | None = None) -> None:
        """Start a training now: a trunk at first and every so many-th time, else a head.

        By another plan than is usual, where one is given.
        """
        plan, current, engine = plan or self._plan, self._service.current, self._service.engine
        chosen = kind or (TRUNK if current is None or self._count % plan.trunk_every == 0 else HEAD)
        self._last_ms, self._events_at_last = now_ms, events
        self._count += 1
        engine.flush_archive()
        generation = self._service.next_generation() if chosen == TRUNK or current is None else current.live.generation
        job = Job(
            data=str(engine.settings.data.resolve()),
            out=str((self._folder / str(self._count)).resolve()),
            kind=chosen,
            below=engine.applied_number,
            parent=current.live.version if current else None,
            partitions=engine.shape.partitions,
            seed=self._count,
            seconds_max=plan.seconds_max,
            threads=plan.threads,
            device=plan.device,
            precision=plan.precision,
            anew=plan.anew,
            blend=current.live.blend.to_json() if current else None,
            events_max=plan.events_max,
        )
        try:
            self._launch(job, generation)
        except OSError as error:  # no room for its folder, or for one more process
            reason = f"failed: the training process could not be started: {error}"
            self._outcome = Outcome(f"g{generation}-{self._count}", chosen, False, reason, {}, now_ms, events)

    def wait(self, timeout_s: float) -> None:
        """Wait for the child to end, at most this long: for who has nothing else to do."""
        if self._running is not None:
            self._running.child.wait(timeout_s)

    def cancel(self) -> None:
        """End the child, if one runs: nothing of it is used."""
        if self._running is not None:
            self._running.child.kill()
            self._running = None
        if self._shadow is not None and self._shadow.candidate is not None:
            self._shadow.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, job: Job, generation: int) -> None:
        child = Child(job)
        self._running = _Running(child, f"g{generation}-{self._count}", generation)
        log.info("training_started kind=%s version=%s below=%d pid=%d", job.kind, self._running.version, job.below, child.pid)

    def _look(self, now_ms: int, events: int) -> Outcome | None:
        """The child has ended: refuse, or store the version and go on to building and promotion. Its folder goes either way."""
        running = self._running
        assert running is not None
        self._running = None
        try:
            report = running.child.report()
            if report.promote and (overtaken := self._overtaken(running.child.job.parent)):
                report = msgspec.structs.replace(report, promote=False, reason=overtaken)
            if report.promote:
                self._building = self._stored(running, report, now_ms)
        except (*UNUSABLE, VectorsDamaged, VectorsLocked) as error:
            report = Report(False, f"failed: {error}", {}, 0, 0, {}, 0.0)
        finally:
            running.child.clean()
        if self._building is not None:
            return self._build(now_ms, events)
        return self._record(Outcome(running.version, running.child.job.kind, False, report.reason, report.numbers, now_ms, events))

    def _stored(self, running: _Running, report: Report, now_ms: int) -> _Building:
        """Load the candidate, and put its files beside the other versions: what cannot be loaded never stands there."""
        files = running.child.files()
        version = Version(running.version, running.generation, running.child.job.parent, now_ms, report.as_of_number, report.metrics)
        loaded = self._service.loaded_from(version, files)
        try:
            self._service.registry.put(version, files)
        except OSError:
            self._service.drop_unused()  # the collection that was opened for it
            raise
        return _Building(loaded, version, report, running.child.job.kind)

    def _build(self, now_ms: int, events: int) -> Outcome | None:
        """Embed the next items of a new generation; promote once every item of the catalogue has its vector.

        What turns out to be unusable on the way is a failed training; with the disk full the same is tried again.
        """
        building = self._building
        assert building is not None
        try:
            if building.kind == TRUNK and building.row < len(self._service.view.catalogue):
                building.row = self._service.build(building.loaded, now_ms=now_ms, start=building.row)
                return None
            wrong = self._overtaken(building.version.parent)
            if not wrong and self._shadow is not None and building.told is None:
                if not self._stood(self._shadow, building, now_ms):
                    return None
                building.told = self._shadow.end()
            wrong = wrong or (building.told.failing if building.told else "")
            if not wrong:
                self._service.promote(building.version, building.loaded)
        except (StaleRecord, UnknownVersion, Damaged, VectorsDamaged, ValueError) as error:
            wrong = f"failed: {error}"
        self._building = None
        if self._shadow is not None and self._shadow.candidate is not None:
            self._shadow.end()
        if wrong:
            self._service.drop_unused()
        numbers = building.report.numbers | (building.told.numbers if building.told else {})
        told = (building.version.name, building.kind, not wrong, wrong or building.report.reason)
        return self._record(Outcome(*told, numbers, now_ms, events))

    def _stood(self, shadow: Shadow, building: _Building, now_ms: int) -> bool:
        """Whether the candidate has been in shadow for long enough; rank a few look-ups by it."""
        if shadow.candidate is None:
            shadow.begin(building.loaded.live)
        return shadow.stood(now_ms=now_ms)

    def _overtaken(self, parent: str | None) -> str:
        """Why a candidate's comparison no longer counts: somebody rolled back meanwhile. Empty if it does."""
        current = self._service.current
        live = current.live.version if current else None
        return "" if live == parent else f"another version went live meanwhile: compared with {parent}, now {live} is"

    def _record(self, outcome: Outcome) -> Outcome:
        self._outcome = outcome
        self._service.registry.record(msgspec.to_builtins(outcome))
        self._outcome = None
        log.info("gate version=%s promoted=%s reason=%s", outcome.version, outcome.promoted, outcome.reason)
        return outcome
