"""Trainers of the cluster form over one site, stepped by the test, and the heartbeats that they wait for."""

from dataclasses import asdict

import redis

from freshet.learning.job import Outcome
from freshet.processes.trainer import Options, Shared, Trainer
from serving.shadow import Shadowed
from storage.health import Beat
from storage.health_redis import RedisHealth
from storage.learned import LearnedRedis
from storage.leases_redis import LEASE_MS, Leases
from storage.models_redis import RedisRegistry
from storage.places import LocalPlace
from storage.state_redis import RedisState
from stream.events import Event
from tests.freshet.followed import PARTITIONS, Followed
from tests.freshet.sites import NOW_MS
from trainers.cadence import Cadence

EVERY = Cadence(10, 600_000, 5_000)
RENEW_MS = LEASE_MS // 3
CHILD_S = 150.0
"""Of a real training on a machine that is busy with other tests."""


def trainer_of(
    site: Followed, name: str = "one", *, lease_ms: int = 60_000, client: redis.Redis | None = None, cadence: Cadence = EVERY
) -> Trainer:
    client = client or site.client
    shared = Shared(
        RedisState(client, partitions=PARTITIONS, prefix=site.prefix),
        RedisRegistry(client, LocalPlace(site.folder / "models"), site.prefix),
        RedisHealth(client, site.prefix),
        Leases(client, "trainer", owner=name, prefix=site.prefix, lease_ms=lease_ms),
        LearnedRedis(client, site.prefix),
    )
    folder = site.folder / name / "training"
    options = Options(folder, cadence, trunk_every=2, seconds_max=5, partitions=PARTITIONS, device="cuda", precision="bfloat16")
    return Trainer(shared, options)


def events(site: Followed, count: int, *, first: int = 0) -> None:
    made = (
        Event(user_id=f"u{n % 7}", action="like", item_id=f"i{n % 11}", ts_ms=NOW_MS - 10**6 + n, event_id=f"e{n}")
        for n in range(first, first + count)
    )
    site.apply(made)


def stepped(trainer: Trainer, now_ms: int) -> Outcome | None:
    """Step until the training that runs has ended."""
    outcome = trainer.step(now_ms=now_ms)
    if outcome is None and trainer._child is not None:
        trainer._child.wait(CHILD_S)
        outcome = trainer.step(now_ms=now_ms)
    return outcome


def beat(
    site: Followed, name: str, now_ms: int, *, candidate: str | None = None, built: str | None = None, shadow: Shadowed | None = None,
    version: str | None = None, fallen: str | None = None, drifted: str | None = None,
) -> None:  # fmt: skip
    ready = {"candidate": candidate, "built": built, "shadow": asdict(shadow) if shadow else None}
    site.health.beat(Beat(name, 1, now_ms, version, None, 0, fallen=fallen, drifted=drifted, **ready))  # type: ignore[arg-type]  # as it comes
