"""From what one takes to what many take: the arithmetic of a cluster's size, each rule beside its reason.

plan(Target(), filling, held, costs).redis_gib
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.footprint import Filling, Footprint
from encoders.config import ModelConfig
from storage.state import COUNTS
from storage.state_redis import BUCKETS

GIB: Final = 1 << 30
BUSY_MAX: Final = 0.6
"""Of a core: the rest is for bursts, catching up, and for the others' share when one is away."""
REDIS_NODE_GIB: Final = 64
"""Memory of one Redis node's machine."""
HEADROOM: Final = 1.5
"""Of its data a Redis node needs so much: the allocator's share, and pages copied while the append-only file is rewritten."""
SPREAD: Final = 4
"""Partitions for each worker and each Redis node at least: what is shared out by whole partitions is shared out evenly."""
STOP_MS_MAX: Final = 10.0
"""The longest a hash that is listed may keep Redis from answering."""
QDRANT_FACTOR: Final = 1.5
"""Memory over the vectors' own bytes, for the graph and payloads: Qdrant's own rule."""
GENERATIONS: Final = 2
"""Collections that are kept: the live one, and the one to go back to; a third while one is built."""


@dataclass(frozen=True)
class Target:
    """What is to be carried."""

    users: int = 10_000_000
    items: int = 10_000_000
    events_per_s: int = 100_000

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.events_per_s) < 1:
            raise ValueError(f"{self}: each must be at least 1")


@dataclass(frozen=True)
class Costs:
    """CPU microseconds an event: of the worker (packs; JSON where it was measured), of Redis and of Kafka."""

    worker_us: float
    redis_us: float
    kafka_us: float
    worker_json_us: float | None = None


@dataclass(frozen=True)
class Wanted:
    """What it takes. `redis_gib` is data alone, `redis_gib_max` with every user and item at its bounds; nodes are as many as
    memory with its headroom, or CPU, asks for."""

    partitions: int
    workers: int
    workers_json: int | None
    redis_gib: float
    redis_gib_max: float
    redis_nodes_for_memory: int
    redis_nodes_for_cpu: int
    kafka_cores: int
    qdrant_gib: float
    count_rows: int


def plan(target: Target, filling: Filling, held: Footprint, costs: Costs) -> Wanted:
    """One worker is one core. Partitions are a power of two, so that they may be shared out among as many workers."""
    workers = _cores(target, costs.worker_us)
    for_cpu = _cores(target, costs.redis_us)
    fields_max = STOP_MS_MAX * 1000 / held.list_us
    buckets = max(target.users, target.items) / fields_max / BUCKETS
    partitions, for_memory, gib, gib_max, rows = 1, 1, 0.0, 0.0, 0
    while partitions < max(SPREAD * workers, SPREAD * for_cpu, SPREAD * for_memory, buckets):
        partitions *= 2
        rows = count_rows(target, filling, partitions)
        counts = rows * held.rows[COUNTS].each
        gib = (target.users * held.user + target.items * held.node + counts) / GIB
        gib_max = (target.users * held.user_max + target.items * (held.node_max + partitions * held.rows[COUNTS].each)) / GIB
        for_memory = math.ceil(gib * HEADROOM / REDIS_NODE_GIB)
    vectors = target.items * ModelConfig().dim * 4
    return Wanted(
        partitions=partitions,
        workers=workers,
        workers_json=_cores(target, costs.worker_json_us) if costs.worker_json_us else None,
        redis_gib=round(gib, 1),
        redis_gib_max=round(gib_max, 1),
        redis_nodes_for_memory=for_memory,
        redis_nodes_for_cpu=for_cpu,
        kafka_cores=_cores(target, costs.kafka_us),
        qdrant_gib=round(GENERATIONS * QDRANT_FACTOR * vectors / GIB, 1),
        count_rows=rows,
    )


def count_rows(target: Target, filling: Filling, partitions: int) -> int:
    """Rows of counts: each partition keeps its own of every item its users took. Expected, with the items drawn by Zipf (exponent 1)."""
    weights = 1.0 / np.arange(1, target.items + 1)
    events = weights * (target.users * filling.events_per_user / weights.sum())
    return int((partitions * -np.expm1(events * np.log1p(-1 / partitions))).sum()) if partitions > 1 else int((-np.expm1(-events)).sum())


def table(target: Target, filling: Filling, held: Footprint, costs: Costs, wanted: Wanted) -> Iterator[str]:
    """For a person, as Markdown."""
    vector = ModelConfig().dim * 4
    yield f"| {target.users:,} users, {target.items:,} items, {target.events_per_s:,} events/s | takes | because |"
    yield "|---|---|---|"
    yield (
        f"| workers (one core each) | {wanted.workers} packs"
        + (f", {wanted.workers_json} JSON" if wanted.workers_json else "")
        + f" | {costs.worker_us:.1f} µs an event"
        + (f" ({costs.worker_json_us:.1f} as JSON)" if costs.worker_json_us else "")
        + f", {BUSY_MAX:.0%} of a core |"
    )
    why = f"{SPREAD} for each worker and Redis node, and no hash whose listing stops Redis for more than {STOP_MS_MAX:.0f} ms"
    yield f"| partitions | {wanted.partitions} | {why} |"
    yield (
        f"| Redis, data | {wanted.redis_gib:,.0f} GiB | {held.user:,.0f} bytes a user, {held.node:,.0f} a node, "
        f"{held.rows[COUNTS].each:.0f} for each of {wanted.count_rows:,} rows of counts; {filling.events_per_user} events a user |"
    )
    yield (
        f"| Redis, at most | {wanted.redis_gib_max:,.0f} GiB | {held.user_max:,.0f} bytes a user whose history and seen-set are full, "
        f"{held.node_max:,.0f} a node whose list is, counts of each item in each partition |"
    )
    nodes = max(wanted.redis_nodes_for_memory, wanted.redis_nodes_for_cpu)
    yield (
        f"| Redis nodes of {REDIS_NODE_GIB} GiB | {nodes} | {wanted.redis_nodes_for_memory} by memory with {HEADROOM} times the data, "
        f"{wanted.redis_nodes_for_cpu} by CPU ({costs.redis_us:.1f} µs an event) |"
    )
    yield (
        f"| Qdrant | {wanted.qdrant_gib:,.1f} GiB | {vector} bytes a vector, {QDRANT_FACTOR} times that in memory (Qdrant's rule, not "
        f"measured), {GENERATIONS} generations |"
    )
    yield f"| Kafka's brokers | {wanted.kafka_cores} cores | {costs.kafka_us:.1f} µs an event, one replica |"


def _cores(target: Target, us: float) -> int:
    return max(1, math.ceil(target.events_per_s * us / 1e6 / BUSY_MAX))
