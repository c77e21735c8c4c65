"""The trainer of the cluster form: archive in, proposals out, and the one flip when everybody is ready.

Of several only the holder of a lease trains; and a flip expects the live record that the candidate was compared with, so
that two can never both promote. Nothing is served here: look-ups go on whatever becomes of a training.

    trainer = Trainer(services, registry, health, leases, options); trainer.step(now_ms=now_ms)
"""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.child import UNUSABLE, Child
from freshet.learn import HEAD, TRUNK, Job, Report
from freshet.training import Outcome
from storage.health import Beats
from storage.leases_redis import LEASE_MS, Leases
from storage.models import StaleRecord, Version
from storage.models_redis import RedisRegistry
from storage.state import TALLIES, State
from stream.ingest import Tally
from trainers.cadence import Cadence, due

log = logging.getLogger(__name__)
ALIVE_MS: Final = 15_000
PROPOSED_MS_MAX: Final = 600_000
"""A proposal that is not built and loaded everywhere by then is withdrawn."""
COUNT_MS: Final = 1000
_TALLY: Final = np.array([1], dtype=np.uint64)
_NUMBER: Final = re.compile(r"-(\d+)$")


@dataclass(frozen=True)
class Options:
    """When and how long to train, and a folder of this process's own for the running child."""

    folder: Path
    cadence: Cadence
    trunk_every: int
    seconds_max: float
    partitions: int


@dataclass(frozen=True)
class Shared:
    """What all processes see."""

    state: State
    registry: RedisRegistry
    health: Beats
    leases: Leases


@dataclass
class _Proposed:
    version: Version
    report: Report
    kind: str
    sequence: int
    since_ms: int


class Trainer:
    """Call `step` often; it never waits. `last` is what became of the latest training."""

    def __init__(self, shared: Shared, options: Options) -> None:
        self._shared, self._options = shared, options
        shutil.rmtree(options.folder, ignore_errors=True)  # what a killed trainer left: nothing of it was promoted
        self._child: Child | None = None
        self._name, self._generation, self._sequence = "", 0, 0
        self._proposed: _Proposed | None = None
        self._leased_ms = self._counted_ms = self._events = self._events_at_last = self._trainings = 0
        self._last_ms: int | None = None

    @property
    def leading(self) -> bool:
        """Whether this one is the trainer now."""
        return bool(self._shared.leases.held)

    @property
    def began_ms(self) -> int:
        """When the latest training began."""
        return self._last_ms or 0

    def step(self, *, now_ms: int) -> Outcome | None:
        """One look at everything; an outcome when a training has just come to its end."""
        if now_ms - self._leased_ms >= LEASE_MS // 3:
            self._leased_ms = now_ms
            self._lease()
        if not self.leading:
            return None
        if self._proposed is not None:
            return self._settle(self._proposed, now_ms)
        if self._child is not None:
            return self._ended(self._child, now_ms) if self._child.ended else None
        if now_ms - self._counted_ms >= COUNT_MS:
            self._counted_ms = now_ms
            self._events = self._accepted()
            if due(self._options.cadence, new_events=self._events - self._events_at_last, now_ms=now_ms, last_ms=self._last_ms):
                self._start(now_ms)
        return None

    def close(self) -> None:
        """End the child; withdraw what is proposed; let another lead."""
        self._drop()
        self._shared.leases.release()

    def _lease(self) -> None:
        fresh = self._shared.leases.hold([0], share=1)
        if not self.leading:
            self._drop()
        elif fresh:
            log.info("trainer_leads")
            self._shared.registry.propose(None)  # of one that died: it was never promoted

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.clean()
            self._child = None
        if self._proposed is not None and self.leading:
            self._shared.registry.propose(None)
        self._proposed = None

    def _accepted(self) -> int:
        blobs = self._shared.state.read_many([(TALLIES, partition, _TALLY) for partition in range(self._options.partitions)])
        return sum(msgspec.json.decode(blob, type=Tally).accepted for (blob,) in blobs if blob)

    def _start(self, now_ms: int) -> None:
        registry, options = self._shared.registry, self._options
        live, known = registry.live(), registry.versions()
        self._sequence = live.sequence if live else 0
        kind = TRUNK if live is None or self._trainings % options.trunk_every == 0 else HEAD
        numbers = [int(found[1]) for name in self._names() if (found := _NUMBER.search(name))]
        self._trainings, self._last_ms, self._events_at_last = self._trainings + 1, now_ms, self._events
        self._generation = live.generation if live and kind == HEAD else max((version.generation for version in known), default=0) + 1
        self._name = f"g{self._generation}-{max(numbers, default=0) + 1}"
        job = Job(
            out=str((options.folder / self._name).resolve()), kind=kind, parent=live.version if live else None, seed=self._trainings,
            seconds_max=options.seconds_max,
        )  # fmt: skip
        self._child = Child(job)
        log.info("training_started kind=%s version=%s pid=%d", kind, self._name, self._child.pid)

    def _names(self) -> list[str]:
        """Of every version that was ever decided on, and of those that are kept: none is given twice."""
        decided = [str(decision.get("version", "")) for decision in self._shared.registry.decisions()]
        return decided + [version.name for version in self._shared.registry.versions()]

    def _ended(self, child: Child, now_ms: int) -> Outcome | None:
        """Refuse, or put the version beside the others and propose it."""
        self._child = None
        try:
            report = child.report()
            if report.promote:
                version = Version(self._name, self._generation, child.job.parent, now_ms, report.as_of_number, report.metrics)
                self._shared.registry.put(version, child.files())
                self._shared.registry.propose(version.name)
                self._proposed = _Proposed(version, report, child.job.kind, self._sequence, now_ms)
                return None
        except UNUSABLE as error:
            report = Report(False, f"failed: {error}", {}, 0, 0, {}, 0.0)
        finally:
            child.clean()
        return self._record(Outcome(self._name, child.job.kind, False, report.reason, report.numbers, now_ms, self._events_at_last))

    def _settle(self, proposed: _Proposed, now_ms: int) -> Outcome | None:
        """Flip once the collection is whole and everybody who answers has loaded the version; withdraw it after a long while."""
        name, report = proposed.version.name, proposed.report
        alive = self._shared.health.alive(now_ms, within_ms=ALIVE_MS)
        built = any(beat.built == name for beat in alive)
        waiting = sorted(beat.process for beat in alive if beat.process.startswith("api") and beat.candidate != name)
        promoted, reason = False, report.reason
        if built and not waiting:
            try:
                self._shared.registry.promote(name, expected_sequence=proposed.sequence)
                promoted = True
            except StaleRecord as error:
                reason = f"another version went live meanwhile ({error})"
        elif now_ms - proposed.since_ms < PROPOSED_MS_MAX:
            return None
        else:
            reason = (
                f"withdrawn: {'not loaded by ' + ', '.join(waiting) if built else 'nobody filled its collection (is a refresher running?)'}"
            )
        self._proposed = None
        self._shared.registry.propose(None)
        return self._record(Outcome(name, proposed.kind, promoted, reason, report.numbers, now_ms, self._events_at_last))

    def _record(self, outcome: Outcome) -> Outcome:
        log.info("gate version=%s promoted=%s reason=%s", outcome.version, outcome.promoted, outcome.reason)
        self._shared.registry.record(msgspec.to_builtins(outcome))
        return outcome
