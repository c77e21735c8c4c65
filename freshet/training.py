"""The trainer beside the server: when a training is due, its child process, and what becomes of the candidate.

    training = Training(service); decision = training.poll(now_ms=now_ms, events=accepted)

A training is a child at low priority, so that look-ups keep their time; only its files come back. A candidate of a new
trunk is embedded item by item into a collection of its own before the flip, while the old one answers.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

from freshet.learn import HEAD, TRUNK, Job, Report
from freshet.service import Loaded, Service
from freshet.version_files import BLEND_FILE, COUNTING_FILE, MODEL_FILE, OPTIMISER_FILE, REPORT_FILE
from storage.models import Damaged, Version
from trainers.cadence import Cadence, due

log = logging.getLogger(__name__)
ERROR_BYTES_MAX: Final = 2000
_RAISED: Final = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt|Full|Damaged)\b")
_UNUSABLE: Final = (OSError, ValueError, LookupError, msgspec.MsgspecError, Damaged)
"""What unreadable files of a candidate raise: a failed training, never the end of the server."""


@dataclass(frozen=True)
class Outcome:
    """One training's end, as recorded: promoted, refused or failed, with the reason and the numbers."""

    version: str
    kind: str
    promoted: bool
    reason: str
    numbers: dict[str, float]
    at_ms: int
    events: int


@dataclass
class _Running:
    process: "subprocess.Popen[bytes]"
    errors: IO[bytes]
    job: Job
    version: str
    generation: int


@dataclass
class _Building:
    loaded: Loaded
    version: Version
    report: Report
    kind: str
    row: int = 0


class Training:
    """At most one training at a time. Call `poll` often; it never waits."""

    def __init__(self, service: Service, *, trunk_every: int, cadence: Cadence, seconds_max: float) -> None:
        self._service, self._trunk_every, self._cadence, self._seconds_max = service, trunk_every, cadence, seconds_max
        self._folder = service.engine.settings.data / "training"
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed parent left: nothing of it was promoted
        self._running: _Running | None = None
        self._building: _Building | None = None
        self._last_ms: int | None = None
        self._events_at_last = 0
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether a training runs or its candidate is being embedded."""
        return self._running is not None or self._building is not None

    def poll(self, *, now_ms: int, events: int) -> Outcome | None:
        """Start what is due, look after what runs; an outcome when one has just ended. `events`: accepted so far."""
        if self._building is not None:
            return self._build(now_ms, events)
        if self._running is not None:
            return self._look(now_ms, events) if self._running.process.poll() is not None else None
        if due(self._cadence, new_events=events - self._events_at_last, now_ms=now_ms, last_ms=self._last_ms):
            self.start(now_ms=now_ms, events=events)
        return None

    def start(self, *, now_ms: int, events: int, kind: str | None = None, threads: int = 1) -> None:
        """Start a training now: a trunk at first and every so many-th time, else a head. More threads only where nobody is served."""
        current, engine = self._service.current, self._service.engine
        chosen = kind or (TRUNK if current is None or self._count % self._trunk_every == 0 else HEAD)
        self._last_ms, self._events_at_last = now_ms, events
        self._count += 1
        engine.flush_archive()
        generation = self._next_generation() if chosen == TRUNK or current is None else current.live.generation
        job = Job(
            data=str(engine.settings.data.resolve()),
            out=str((self._folder / str(self._count)).resolve()),
            kind=chosen,
            below=engine.applied_number,
            parent=current.live.version if current else None,
            partitions=engine.shape.partitions,
            seed=self._count,
            seconds_max=self._seconds_max,
            threads=threads,
        )
        self._launch(job, generation)

    def wait(self, timeout_s: float) -> None:
        """Wait for the child to end, at most this long: for who has nothing else to do."""
        if self._running is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.process.wait(timeout_s)

    def cancel(self) -> None:
        """End the child, if one runs: nothing of it is used."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.wait()
            self._running.errors.close()
            self._running = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, job: Job, generation: int) -> None:
        out = Path(job.out)
        out.mkdir(parents=True)
        (out / "job.json").write_bytes(msgspec.json.encode(job))
        errors = (out / "errors.txt").open("w+b")
        quiet = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
        command = [sys.executable, "-m", "freshet.learn", str(out / "job.json")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=quiet, cwd=Path(__file__).parents[1])
        self._running = _Running(process, errors, job, f"g{generation}-{self._count}", generation)
        log.info("training_started kind=%s version=%s below=%d pid=%d", job.kind, self._running.version, job.below, process.pid)

    def _look(self, now_ms: int, events: int) -> Outcome | None:
        """The child has ended: refuse, or store the version and go on to building and promotion. Its folder goes either way."""
        running = self._running
        assert running is not None
        self._running = None
        out = Path(running.job.out)
        try:
            report = _report(running)
            if report.promote:
                self._building = self._stored(running, report, now_ms)
        except _UNUSABLE as error:
            report = Report(False, f"failed: {error}", {}, 0, 0, {}, 0.0)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        if self._building is not None:
            return self._build(now_ms, events)
        return self._record(Outcome(running.version, running.job.kind, False, report.reason, report.numbers, now_ms, events))

    def _stored(self, running: _Running, report: Report, now_ms: int) -> _Building:
        """Put the candidate's files beside the other versions, and load it from there."""
        files = {name: (Path(running.job.out) / name).read_bytes() for name in (MODEL_FILE, BLEND_FILE, COUNTING_FILE, OPTIMISER_FILE)}
        version = Version(running.version, running.generation, running.job.parent, now_ms, report.as_of_number, report.metrics)
        self._service.registry.put(version, files)
        return _Building(self._service.load(version.name), version, report, running.job.kind)

    def _build(self, now_ms: int, events: int) -> Outcome | None:
        """Embed the next items of a new generation; promote once every item of the catalogue has its vector."""
        building = self._building
        assert building is not None
        if building.kind == TRUNK and building.row < len(self._service.view.catalogue):
            building.row = self._service.build(building.loaded, now_ms=now_ms, start=building.row)
            return None
        self._building = None
        self._service.promote(building.version, building.loaded)
        outcome = Outcome(building.version.name, building.kind, True, building.report.reason, building.report.numbers, now_ms, events)
        return self._record(outcome)

    def _record(self, outcome: Outcome) -> Outcome:
        log.info("gate version=%s promoted=%s reason=%s", outcome.version, outcome.promoted, outcome.reason)
        self._service.registry.record(msgspec.to_builtins(outcome))
        return outcome

    def _next_generation(self) -> int:
        known = [version.generation for version in self._service.registry.versions()]
        return max([*known, *self._service.folder.generations()], default=0) + 1


def _report(running: _Running) -> Report:
    """What the child found. Raises ChildProcessError with its last words when it did not get so far."""
    path, words = Path(running.job.out) / REPORT_FILE, _tail(running.errors)
    if running.process.returncode != 0 or not path.exists():
        raise ChildProcessError(f"the training process ended with {running.process.returncode}: {words}")
    return msgspec.json.decode(path.read_bytes(), type=Report)


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - ERROR_BYTES_MAX))
    text = errors.read().decode("utf-8", "replace").strip().splitlines()
    errors.close()
    raised = [line for line in text if _RAISED.match(line)]  # an abort on the way out may say more, and less, after it
    return (raised or text or ["it said nothing"])[-1]
