"""`freshet trainer`: the trainer's loop in a thread, and its page.

run_trainer(settings)      # returns when it is told to stop
"""

import logging
import os
import threading
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from freshet.clock import now_ms
from freshet.cluster import REDIS_ERRORS, services, store_of
from freshet.learning.job import Outcome
from freshet.listening import STOP_S, bound, lifespan, page, run_on
from freshet.processes.naming import process_name
from freshet.processes.trainer import Options, Shared, Trainer
from freshet.settings import Settings
from storage.health import Beat
from storage.health_redis import RedisHealth
from storage.learned import LearnedRedis
from storage.leases_redis import Leases
from storage.models import Damaged
from storage.models_redis import RedisRegistry
from trainers.cadence import Cadence

log = logging.getLogger(__name__)
STEP_S: Final = 0.2
AWAY_S: Final = 1.0
AWAY_TOLD_MS: Final = 60_000
AWAY: Final = (*REDIS_ERRORS, OSError, Damaged)
"""Redis or the store does not answer, or the live record is not what was written: a person mends it meanwhile."""
STUCK_MS: Final = 60_000
BEAT_MS: Final = 1000
_TRAINING_S: Final = (10, 30, 60, 120, 300, 600, 1800)


class TrainerMetrics:
    """What a trainer counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.trainings = Counter("freshet_trainer_trainings_total", "Trainings by what became of them", ["outcome"], registry=registry)
        self.seconds = Histogram("freshet_trainer_seconds", "Time of a training, to its decision", buckets=_TRAINING_S, registry=registry)
        self.roll_backs = Counter(
            "freshet_roll_backs_total", "Versions taken back because their predecessor would do better", registry=registry
        )
        self.leading = Gauge("freshet_trainer_leading", "Whether this process is the one that trains", registry=registry)

    def take(self, outcome: Outcome, began_ms: int) -> None:
        """One training's end."""
        failed = outcome.reason.startswith("failed")
        self.trainings.labels("promoted" if outcome.promoted else "failed" if failed else "refused").inc()
        self.seconds.observe((outcome.at_ms - began_ms) / 1000)


class Loop(threading.Thread):
    """Steps the trainer; a store that does not answer is told once a minute and tried again, another error ends it."""

    def __init__(self, trainer: Trainer, health: RedisHealth, metrics: TrainerMetrics) -> None:
        super().__init__(name="trainer", daemon=True)
        self._trainer, self._health, self._metrics = trainer, health, metrics
        self._stopping = threading.Event()
        self._process, self._beat_ms = process_name("trainer"), 0
        self._told_ms: dict[str, int] = {}
        self.moved_ms = now_ms()
        """When the last round ended, also one that found a store away."""

    def run(self) -> None:
        """Until told to stop."""
        try:
            while not self._stopping.wait(self._round()):
                pass
        except Exception:  # the outer loop of this thread: it is told, and /healthz says so
            log.exception("trainer_stopped")

    def stop(self) -> None:
        """End the child, let another lead."""
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._trainer.close()
        with suppress(*REDIS_ERRORS):
            self._health.forget(self._beat(now_ms()))

    def _round(self) -> float:
        now, pause, taken_back = now_ms(), STEP_S, self._trainer.taken_back
        try:
            outcome = self._trainer.step(now_ms=now)
            if outcome is not None:
                self._metrics.take(outcome, self._trainer.began_ms)
            if now - self._beat_ms >= BEAT_MS:
                self._health.beat(self._beat(now))
                self._beat_ms = now
        except AWAY as error:
            self._tell(error, now)
            pause = AWAY_S
        self.moved_ms = now_ms()
        self._metrics.roll_backs.inc(self._trainer.taken_back - taken_back)
        self._metrics.leading.set(self._trainer.leading)
        return pause

    def _tell(self, error: Exception, now: int) -> None:
        """Once a minute of each kind. Of Redis' errors no words: they may hold what its address was given with."""
        kind = type(error).__name__
        if now - self._told_ms.get(kind, 0) >= AWAY_TOLD_MS:
            self._told_ms[kind] = now
            log.error("store_away error=%s doing=trying again each second", kind if isinstance(error, REDIS_ERRORS) else f"{kind}: {error}")

    def _beat(self, now: int) -> Beat:
        return Beat(self._process, os.getpid(), now)


def run_trainer(settings: Settings) -> None:
    """Train until SIGTERM or SIGINT. Raises what `services` raises, OSError when the port is taken."""
    with services(settings) as site, bound(settings.host, settings.page_port) as listener:
        name = process_name("trainer")
        registry = RedisRegistry(site.client, store_of(settings, "models"), site.prefix, keep_max=settings.versions_max)
        health = RedisHealth(site.client, site.prefix)
        leases = Leases(site.client, "trainer", owner=f"{name}.{os.getpid()}", prefix=site.prefix)
        shared = Shared(site.state, registry, health, leases, LearnedRedis(site.client, site.prefix))
        interval_ms = int(1000 * settings.train_interval_s)
        options = Options(
            folder=settings.data / "training", cadence=Cadence(settings.train_events_min, max(600_000, interval_ms), interval_ms),
            trunk_every=settings.trunk_every, seconds_max=settings.train_seconds_max, threads=settings.train_threads,
            device=settings.train_device, precision=settings.train_precision, events_max=settings.train_events_max,
            partitions=site.shape.partitions, environment={"FRESHET_DATA": str(settings.data)},
        )  # fmt: skip
        metrics = TrainerMetrics()
        loop = Loop(Trainer(shared, options), health, metrics)

        def healthy() -> str:
            stuck_ms = now_ms() - loop.moved_ms
            return "" if loop.is_alive() and stuck_ms < STUCK_MS else f"the trainer has not looked for work for {stuck_ms} ms"

        app = page(healthy, lambda: generate_latest(metrics.registry))
        app.router.lifespan_context = lifespan(loop.start, loop.stop)
        run_on(listener, app, stop_s=STOP_S)
