"""`freshet serve`: the embedded all-in-one behind HTTP, and its one writing thread.

    run_server(settings)      # returns when it is told to stop

The folder names the server while it runs (`server.json`), so that the other commands find it.
"""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.access import SERVER_FILE
from freshet.clock import now_ms
from freshet.engine import Engine
from freshet.learning.adopting import adopt
from freshet.learning.asking import Asking
from freshet.learning.training import Outcome, Plan, Training
from freshet.learning.weighing import Weighing
from freshet.listening import bound, lifespan, run_on
from freshet.service import Service
from freshet.settings import Settings
from freshet.versions import described
from serving.api import create_app
from serving.metrics import Metrics
from serving.services import Engine as EngineHealth
from serving.services import Services
from serving.shadow import Shadow
from storage.files import DiskFull, write_file
from storage.health import Beat, Health
from storage.learned import LearnedFile
from storage.log import LogFull, Position, Record
from storage.models import Damaged, StaleRecord, UnknownVersion
from stream.collecting import collect_seldom
from stream.ingest import EVENTS, Applied
from stream.replay import digests
from trainers.cadence import Cadence

log = logging.getLogger(__name__)
IDLE_S: Final = 0.05
BEAT_MS: Final = 1000
SYNC_MS: Final = 1000
ROLL_MS: Final = 300_000
"""What waits for the archive is published at least this often."""
DELAYS_MAX: Final = 64
FULL_TOLD_MS: Final = 60_000


class Runner(threading.Thread):
    """The one writer: steps the service, looks after trainings, says that it lives. Ends by `stop`, or by an error it keeps."""

    def __init__(self, service: Service, training: Training, metrics: Metrics, asking: Asking | None = None) -> None:
        super().__init__(name="engine", daemon=True)
        self._service, self._training, self._metrics, self.asking = service, training, metrics, asking
        service.engine.looking = self._look
        self._health = Health(service.engine.settings.data / "health")
        self._stopping = threading.Event()
        self._beat_ms = self._synced_ms = self._full_ms = 0
        self._rolled_ms = now_ms()
        self.between_commits = threading.Lock()
        self.error: BaseException | None = None
        self.moved_ms = now_ms()
        self.catching_up = True
        """Until all that was appended before the start is applied, look-ups would answer from the past."""
        self._target = service.engine.log.next_number(EVENTS)
        self.tell_model()

    def run(self) -> None:
        """Round after round; an error ends it, is logged, and turns /healthz to 503."""
        collect_seldom()
        try:
            while not self._stopping.is_set():
                with self.between_commits:
                    idle = self._round_if_there_is_room()
                if idle:
                    with self._service.engine.appended:
                        self._service.engine.appended.wait(IDLE_S)
        except Exception as error:  # the outer loop of this thread: it is told, and /healthz says so
            log.exception("engine_stopped")
            self.error = error

    def stop(self) -> None:
        """Finish the round and end."""
        self._stopping.set()
        self.join()
        self._training.cancel()
        if self.asking is not None:
            self.asking.weighing.save()

    def _round_if_there_is_room(self) -> bool:
        """A full log or disk ends nothing: what was being applied was not committed, and is tried again once there is room."""
        try:
            return self._round()
        except (LogFull, DiskFull) as error:
            now = now_ms()
            if now - self._full_ms >= FULL_TOLD_MS:
                self._full_ms = now
                log.error("no_room error=%s doing=trying again each second", error)
            self._service.engine.trim_log()
            self._stopping.wait(1.0)
            return True

    def _round(self) -> bool:
        service, engine, now = self._service, self._service.engine, now_ms()
        pumped = service.step(now_ms=now)
        for applied in pumped.applied:
            _count(self._metrics, applied, now_ms())
        self._take_back(now)
        outcome = self._poll(now)
        if outcome is not None:
            (self._metrics.promotions if outcome.promoted else self._metrics.refusals).inc()
            self.tell_model()
        if pumped.applied or pumped.entities or engine.lag == 0:
            self.moved_ms = now
        self.catching_up = self.catching_up and engine.applied_number < self._target
        if now - self._beat_ms >= BEAT_MS:
            self._beat_ms = now
            self._beat(now)
        if now - self._synced_ms >= SYNC_MS:
            self._synced_ms = now
            engine.state.sync()
            engine.trim_log()
        if now - self._rolled_ms >= ROLL_MS:
            self._rolled_ms = now
            engine.flush_archive()
        return not pumped.applied and not pumped.entities

    def _look(self, records: Sequence[Record], now: int) -> None:
        """What is measured is never worth stopping for."""
        if self.asking is not None:
            try:
                self.asking.before(records, now_ms=now)
            except Exception:  # whatever it is: events are applied all the same, and it is told once
                log.exception("online_measuring_stopped")
                self.asking = None

    def _take_back(self, now: int) -> None:
        """Answer from the version before once it was shown that it would do better."""
        current = self._service.current
        because = self.asking.fallen(current.live.version) if self.asking and current else ""
        if self.asking is None or not because:
            return
        self.asking.held()
        try:
            version = self._service.roll_back(now_ms=now, because=f"because {because}")
        except (UnknownVersion, StaleRecord, Damaged) as error:
            log.warning("roll_back_failed because=%s error=%s", because, error)
            return
        log.warning("rolled_back to=%s because=%s", version, because)
        self._metrics.roll_backs.inc()
        self.tell_model()

    def _poll(self, now: int) -> Outcome | None:
        """A drift is told until a training starts after it; one that ran meanwhile has not seen what came since."""
        running, drifted = self._training.busy, self.asking.drifted if self.asking else ""
        outcome = self._training.poll(now_ms=now, events=self._service.engine.tallies.accepted, drifted=drifted)
        if self.asking is not None and drifted and not running and self._training.busy:
            self.asking.drifted = ""
            self._metrics.drifts.inc()
        return outcome

    def _beat(self, now: int) -> None:
        current = self._service.current
        version, collection = (current.live.version, current.live.collection) if current else (None, None)
        if self.asking is not None:
            self._metrics.online(self.asking.statistics.summary(len(self._service.view.catalogue)))
            self.asking.weighing.save()
        self._health.beat(Beat("serve", os.getpid(), now, version, collection, self._service.engine.applied_number))

    def tell_model(self) -> None:
        """Say in the metrics which model is live."""
        current = self._service.current
        if current is not None:
            self._metrics.model(current.live.version, generation=current.live.generation, collection=current.live.collection)


def run_server(settings: Settings, model: Path | None = None) -> None:
    """Serve the folder until SIGTERM or SIGINT; then finish the round, note a clean close, and return. A `model` file goes live first.

    Raises `FolderBusy`, `ShapeChanged`, `Gap`, `CheckpointError` before the first request is taken, OSError when the port is taken.
    """
    with Engine(settings) as engine, ExitStack() as held:
        service = Service(engine)
        held.callback(service.close)
        if model is not None:
            adopt(service, model, now_ms=now_ms())
        metrics = Metrics()
        plan = Plan(
            settings.trunk_every, seconds_max=settings.train_seconds_max, threads=settings.train_threads,
            device=settings.train_device, precision=settings.train_precision, events_max=settings.train_events_max,
        )  # fmt: skip
        shadow = _shadow(service, settings, metrics)
        training = Training(service, plan, cadence=_cadence(settings), shadow=shadow)
        runner = Runner(service, training, metrics, _asking(service, settings))
        app = create_app(services_of(service, runner, metrics, shadow))
        app.router.lifespan_context = lifespan(runner.start, runner.stop)
        try:
            with bound(settings.host, settings.port) as listener:
                _announce(settings)
                run_on(listener, app)
        finally:
            (settings.data / SERVER_FILE).unlink(missing_ok=True)


def services_of(service: Service, runner: Runner, metrics: Metrics, shadow: Shadow | None = None) -> Services:
    """What the routes are given to work with."""
    engine = service.engine

    def append_events(messages: Sequence[bytes], form: int) -> Sequence[Position]:
        return engine.append_events(messages, now_ms=now_ms(), form=form)

    def append_entities(messages: Sequence[bytes]) -> Sequence[Position]:
        return engine.append_entities(messages, now_ms=now_ms())

    def health() -> EngineHealth:
        stuck = now_ms() - runner.moved_ms if engine.lag else 0
        return EngineHealth(alive=runner.is_alive(), lag_records=engine.lag, stuck_ms=stuck, dirty_items=service.refresher.pending())

    def digest() -> Mapping[str, object]:
        with runner.between_commits:
            return {"digest": digests(engine.state, engine.shape.partitions), "below": engine.applied_number}

    def roll_back() -> str:
        with runner.between_commits:
            version = service.roll_back(now_ms=now_ms())
            runner.tell_model()
        return version

    def answered(user_id: str, k: int) -> None:
        if shadow is not None:
            shadow.note(user_id, k)

    return Services(
        lookup=service.lookup, append_events=append_events, append_entities=append_entities, engine=health,
        status=lambda: status(service, runner.asking), digest=digest, ready=lambda: runner.is_alive() and not runner.catching_up,
        metrics=metrics, clock_ms=now_ms, models=lambda: described(service.registry), roll_back=roll_back,
        answered=answered,
    )  # fmt: skip


def status(service: Service, asking: Asking | None = None) -> Mapping[str, object]:
    """Everything `freshet lag` prints, as JSON. `online` is there while a server measures."""
    engine, record = service.engine, service.registry.live()
    return {
        "applied_number": engine.applied_number,
        "lag_records": engine.lag,
        "partitions": engine.partition_lags(),
        "archive_lag_records": engine.archive_lag,
        "tallies": msgspec.to_builtins(engine.tallies),
        "as_of": msgspec.to_builtins(service.view.progress.as_of),
        "items": len(service.view.catalogue),
        "dirty_items": service.refresher.pending(),
        "log_bytes": engine.log.used_bytes(),
        "log_bytes_max": engine.settings.log_bytes_max,
        "live": msgspec.to_builtins(record) if record else None,
        "versions": [version.name for version in service.registry.versions()],
        "decisions": service.registry.decisions()[-5:],
        "weights": asking.weighing.told if asking else None,
        "online": asking.statistics.summary(len(service.view.catalogue)) if asking else None,
    }


def _count(metrics: Metrics, applied: Applied, now: int) -> None:
    """One commit's figures; of a large batch some records stand for all in the histogram of delays."""
    metrics.events_accepted.inc(applied.events)
    for letter in applied.dead_letters:
        metrics.dead_letters(letter.kind)
    records = applied.decoded.records
    for record in records[:: max(1, len(records) // DELAYS_MAX)]:
        metrics.visible_seconds.observe(max(0, now - record.append_ms) / 1000)


def _asking(service: Service, settings: Settings) -> Asking | None:
    if not settings.online_per_s:
        return None
    weighing = Weighing(service, kept=LearnedFile(settings.data / "weights.json"))
    return Asking(service, every_ms=int(1000 / settings.online_per_s), generator=np.random.default_rng(), weighing=weighing)


def _shadow(service: Service, settings: Settings, metrics: Metrics) -> Shadow | None:
    if not settings.shadow_share:
        return None
    return Shadow(service.lookup, now_ms, share=settings.shadow_share, metrics=metrics)


def _cadence(settings: Settings) -> Cadence:
    interval_ms = int(1000 * settings.train_interval_s)
    return Cadence(settings.train_events_min, max(600_000, interval_ms), interval_ms)


def _announce(settings: Settings) -> None:
    """Say where the server of this folder is."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    write_file(
        settings.data / SERVER_FILE, msgspec.json.encode({"url": f"http://{host}:{settings.port}", "pid": os.getpid()}), durable=False
    )
