"""The trainer of the cluster form: archive in, proposals out, and the one flip when everybody is ready.

Of several only the holder of a lease trains; and a flip expects the live record that the candidate was compared with, so
that two can never both promote. Nothing is served here: look-ups go on whatever becomes of a training. When Redis does not
answer in the middle of a step, the next one takes up where it stopped.

    trainer = Trainer(services, registry, health, leases, options); trainer.step(now_ms=now_ms)
"""

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.cluster import REDIS_ERRORS
from freshet.learning.child import UNUSABLE, Child
from freshet.learning.job import EVENTS_MAX, HEAD, TRUNK, Job, Outcome, Report
from freshet.versions import rolled_back
from serving.shadow import Shadowed
from storage.health import Beat, Beats, key_of
from storage.learned import LearnedStore
from storage.leases_redis import LEASE_MS, Leases
from storage.models import Damaged, StaleRecord, UnknownVersion, Version
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
_NAME: Final = re.compile(r"g(\d+)-(\d+)")


@dataclass(frozen=True)
class Options:
    """When and how long to train, and a folder of this machine's own for the running child; `environment` is the child's besides ours."""

    folder: Path
    cadence: Cadence
    trunk_every: int
    seconds_max: float
    partitions: int
    threads: int = 1
    events_max: int = EVENTS_MAX
    device: str = "cpu"
    precision: str = "float32"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """What all processes see."""

    state: State
    registry: RedisRegistry
    health: Beats
    leases: Leases
    learned: LearnedStore


@dataclass
class _Proposed:
    version: Version
    report: Report
    kind: str
    sequence: int
    since_ms: int


class Trainer:
    """Call `step` often; it never waits for a training. Raises what the stores raise: `REDIS_ERRORS`, OSError, `Damaged`."""

    def __init__(self, shared: Shared, options: Options) -> None:
        self._shared, self._options = shared, options
        self._child: Child | None = None
        self._name, self._generation, self._sequence = "", 0, 0
        self._proposed: _Proposed | None = None
        self._outcome: Outcome | None = None
        """Decided, and not recorded yet."""
        self._taking_over = False
        self._drifts: dict[str, str | None] = {}
        """What each api process said of its last drift when the latest training began: it has learned from that."""
        self._kept: int | None = None
        """The sequence of a live record that could not be taken back."""
        self.taken_back = 0
        """Versions that this one has taken back."""
        self._leased_ms = self._counted_ms = self._events = self._events_at_start = self._events_learned = self._trainings = 0
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
            self._lease()
            self._leased_ms = now_ms
        if not self.leading:
            return None
        if self._outcome is not None:
            return self._record(self._outcome)
        if counted := now_ms - self._counted_ms >= COUNT_MS:
            self._counted_ms = now_ms
            self._take_back(now_ms)
        if self._proposed is not None:
            return self._settle(self._proposed, now_ms)
        if self._child is not None:
            return self._ended(self._child, now_ms) if self._child.ended else None
        if counted:
            self._events, drifted = self._accepted(), self._drifted(now_ms)
            new_events = self._events - self._events_learned
            why = due(self._options.cadence, new_events=new_events, now_ms=now_ms, last_ms=self._last_ms, drifted=drifted)
            if why:
                log.info("training_due because=%s", why)
                self._start(now_ms, drifted=bool(drifted))
        return None

    def close(self) -> None:
        """End the child; withdraw what is proposed; let another lead. With Redis away the next one to lead withdraws it."""
        proposed = self._proposed is not None
        self._drop()
        with suppress(*REDIS_ERRORS):
            if proposed and self.leading:
                self._shared.registry.propose(None)
            self._shared.leases.release()

    def _lease(self) -> None:
        self._taking_over |= bool(self._shared.leases.hold([0], share=1))
        if not self.leading:
            self._taking_over = False
            self._drop()
        elif self._taking_over:
            log.info("trainer_leads")
            if self._child is None:
                shutil.rmtree(self._options.folder, ignore_errors=True)  # what a killed trainer left: nothing of it was promoted
            ours = self._proposed.version.name if self._proposed else None
            self._shared.registry.propose(ours)  # another's was never promoted
            self._drifts = _drifts(self._shared.health.read())  # who led before knew of those
            self._taking_over = False

    def _drop(self) -> None:
        """Nothing of a training that another may have taken over is used."""
        if self._child is not None:
            log.warning("training_dropped version=%s", self._name)
            self._child.kill()
            self._child.clean()
        self._child = self._proposed = None

    def _accepted(self) -> int:
        blobs = self._shared.state.read_many([(TALLIES, partition, _TALLY) for partition in range(self._options.partitions)])
        return sum(msgspec.json.decode(blob, type=Tally).accepted for (blob,) in blobs if blob)

    def _take_back(self, now_ms: int) -> None:
        """Make the version before live again once an api process has shown that it would do better. What was trained beside the one that
        falls, or is proposed, was compared with it: its flip expects another record, and is refused.
        """
        live = self._shared.registry.live()
        if live is None or live.sequence == self._kept:
            return
        because = next((beat.fallen for beat in self._apis(now_ms) if beat.fallen and beat.version == live.version), None)
        if because is None:
            return
        try:
            back = rolled_back(self._shared.registry, now_ms=now_ms, because=f"because {because}")
        except (UnknownVersion, StaleRecord, Damaged) as error:
            self._kept = live.sequence
            log.warning("roll_back_failed because=%s error=%s", because, error)
            return
        self.taken_back += 1
        log.warning("rolled_back to=%s because=%s", back.version, because)

    def _drifted(self, now_ms: int) -> str:
        """How what some api process answers fell behind since the latest training began; empty if nothing did."""
        return next((beat.drifted for beat in self._apis(now_ms) if beat.drifted and beat.drifted != self._drifts.get(key_of(beat))), "")

    def _apis(self, now_ms: int) -> list[Beat]:
        return [beat for beat in self._shared.health.alive(now_ms, within_ms=ALIVE_MS) if beat.process.startswith("api")]

    def _start(self, now_ms: int, *, drifted: bool) -> None:
        """A trunk at first, every so many-th time and after a drift, as a head turns on item vectors that are then old; else a head."""
        registry, options = self._shared.registry, self._options
        live = registry.live()
        self._sequence = live.sequence if live else 0
        self._drifts = _drifts(self._shared.health.read())
        kind = TRUNK if live is None or drifted or self._trainings % options.trunk_every == 0 else HEAD
        known = registry.versions()
        given = [(int(found[1]), int(found[2])) for name in self._decided() if (found := _NAME.fullmatch(name))]
        given += [(version.generation, int(found[2]) if (found := _NAME.fullmatch(version.name)) else 0) for version in known]
        generation, number = (max(numbers) for numbers in zip((0, 0), *given, strict=True))
        self._trainings, self._last_ms, self._events_at_start = self._trainings + 1, now_ms, self._events
        self._generation = live.generation if live and kind == HEAD else generation + 1
        self._name = f"g{self._generation}-{number + 1}"
        job = Job(
            out=str((options.folder / self._name).resolve()), kind=kind, parent=live.version if live else None, seed=self._trainings,
            seconds_max=options.seconds_max, threads=options.threads, events_max=options.events_max,
            device=options.device, precision=options.precision,
            blend=self._answering(live.version) if live else None,
        )  # fmt: skip
        self._child = Child(job, options.environment)
        log.info("training_started kind=%s version=%s pid=%d", kind, self._name, self._child.pid)

    def _answering(self, version: str) -> str | None:
        """The weights that a live version answers with, where somebody has learned some."""
        try:
            learned = self._shared.learned.read()
        except msgspec.DecodeError as error:
            log.warning("weights_not_used at=%s error=%s", self._shared.learned.where, error)
            return None
        return learned.blend if learned and learned.version == version else None

    def _decided(self) -> list[str]:
        """The names of versions that were decided on: no name and no collection is given twice, also when they were pruned."""
        return [str(decision.get("version", "")) for decision in self._shared.registry.decisions()]

    def _ended(self, child: Child, now_ms: int) -> Outcome | None:
        """Refuse, or put the version beside the others and propose it. The same version each time it is tried."""
        try:
            report = child.report()
            if report.promote:
                made_ms = self.began_ms + int(1000 * report.seconds)
                version = Version(self._name, self._generation, child.job.parent, made_ms, report.as_of_number, report.metrics)
                self._shared.registry.put(version, child.files())
                self._shared.registry.propose(version.name)
                self._proposed = _Proposed(version, report, child.job.kind, self._sequence, now_ms)
            self._events_learned = self._events_at_start  # of one that failed, as before the archive has them, they are due again
        except (*UNUSABLE, RuntimeError) as error:  # the last: an upload that was given up
            report = Report(False, f"failed: {error}", {}, 0, 0, {}, 0.0)
        self._child = None  # not reached while Redis is away
        child.clean()
        if self._proposed is not None:
            return None
        return self._record(Outcome(self._name, child.job.kind, False, report.reason, report.numbers, now_ms, self._events_at_start))

    def _settle(self, proposed: _Proposed, now_ms: int) -> Outcome | None:
        """Flip once the collection is whole and everybody who answers is ready for the version, unless it failed in shadow somewhere;
        withdraw it after a long while.
        """
        name, report = proposed.version.name, proposed.report
        built, apis = any(beat.built == name for beat in self._shared.health.alive(now_ms, within_ms=ALIVE_MS)), self._apis(now_ms)
        waiting, seen = sorted(beat.process for beat in apis if beat.candidate != name), _seen(apis, name)
        promoted, reason = False, report.reason
        if built and not waiting:
            promoted, reason = (False, seen.failing) if seen and seen.failing else self._promote(proposed)
        elif now_ms - proposed.since_ms < PROPOSED_MS_MAX:
            return None
        else:
            missing = f"{', '.join(waiting)} not ready for it" if built else "nobody filled its collection (is a refresher running?)"
            reason = f"withdrawn: {missing}"
        self._proposed = None
        numbers = report.numbers | (seen.numbers if seen else {})
        return self._record(Outcome(name, proposed.kind, promoted, reason, numbers, now_ms, self._events_at_start))

    def _promote(self, proposed: _Proposed) -> tuple[bool, str]:
        """Whether it is live now, and why."""
        name = proposed.version.name
        try:
            self._shared.registry.promote(name, expected_sequence=proposed.sequence)
        except StaleRecord as error:
            live = self._shared.registry.live()
            if live is None or live.version != name:  # else it was ours, and the answer was lost
                return False, f"another version went live meanwhile ({error})"
        except (UnknownVersion, Damaged) as error:
            return False, f"failed: {error}"
        return True, proposed.report.reason

    def _record(self, outcome: Outcome) -> Outcome:
        """Nothing is proposed any more; what was decided stays until it is on record."""
        self._outcome = outcome
        self._shared.registry.propose(None)
        self._shared.registry.record(msgspec.to_builtins(outcome))
        self._outcome = None
        log.info("gate version=%s promoted=%s reason=%s", outcome.version, outcome.promoted, outcome.reason)
        return outcome


def _drifts(beats: Sequence[Beat]) -> dict[str, str | None]:
    return {key_of(beat): beat.drifted for beat in beats}


def _seen(apis: Sequence[Beat], name: str) -> Shadowed | None:
    """What those who are ready for the version saw of it in shadow; None if it stood nowhere."""
    told = [Shadowed(**beat.shadow) for beat in apis if beat.candidate == name and beat.shadow]  # type: ignore[arg-type]  # JSON's
    return Shadowed.joined(told) if told else None
