"""How the cluster grows and moves: events a second of 1, 2 and 4 workers, how long a partition stands still when it moves, and
whether `freshet lag` tells the truth.

    python -m bench.scaling [--events 400000] [--workers 1,2,4] [--rounds 1]

A Kafka, a Redis and `freshet worker` processes of its own, 12 partitions. Throughput: the workers hold everything and wait; then
packs of 250 synthetic events are appended, and the clock runs from the first append to the last watermark of events, and to
that of edges; CPU is each worker's own. A small load before that compiles and connects. On a machine whose cores the
workers share with the broker and Redis more workers are not faster: `cores` says of how many all had to live.

Stalls (`bench/moving.py`) and lag (`bench/lag_truth.py`) are measured with two workers under a load. The last line is JSON.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import pyarrow as pa

from bench.installation import APPLIED, Installation, Program, cpu_s, machine_busy_s
from bench.lag_truth import lag_truth
from bench.loading import Order
from bench.machine import versions
from bench.moving import MOVES, stalls
from bench.services import KafkaServer, RedisServer
from bench.synthetic import PACK_EVENTS, draw, pack
from storage.arrays import I64s
from storage.log import PACK, Entry
from stream.ingest import EVENTS
from stream.kafka import SESSION_MS
from stream.log_kafka import KafkaLog
from stream.routing import partitions_of
from stream.wire import encode_pack

PARTITIONS: Final = 12
WARM_EVENTS: Final = 3000
APPENDED_AT_ONCE: Final = 200
LOAD_RATE: Final = 2000
AIM_S: Final = {"planned": 3.0, "killed": SESSION_MS / 1000 + 3}
"""How long a partition that moves may stand still."""


@dataclass(frozen=True)
class Plan:
    """What is measured. `moves` of MOVES, in this order; `rate` is the load meanwhile."""

    events: int = 400_000
    workers: tuple[int, ...] = (1, 2, 4)
    rounds: int = 1
    rate: int = LOAD_RATE
    moves: tuple[str, ...] = MOVES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.events < 1 or self.rounds < 1 or not self.workers or min(self.workers) < 1:
            raise ValueError(f"events={self.events}, rounds={self.rounds}, workers={self.workers}: each must be at least 1")


@dataclass(frozen=True)
class Run:
    """One filling of the topic: wall seconds until events, and until edges too, were applied; CPU seconds of each worker."""

    events: int
    events_s: float
    all_s: float
    appended_s: float
    worker_cpu_s: tuple[float, ...]
    kafka_cpu_s: float
    redis_cpu_s: float
    machine_cpu_s: float
    """Of everything that ran meanwhile."""


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=400_000, help="in each run (default 400,000)")
    parser.add_argument("--workers", default="1,2,4", help="how many, one after the other (default 1,2,4)")
    parser.add_argument("--rounds", type=int, default=1, help="runs with each; figures are medians (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    workers = tuple(int(count) for count in options.workers.split(","))
    plan = Plan(events=options.events, workers=workers, rounds=options.rounds, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(plan, Path(folder), say=_say)
    print(json.dumps({"bench": "scaling", **report, **versions()}))


def measure(plan: Plan, folder: Path, *, say: Callable[[str], None]) -> dict[str, object]:
    """Everything, over services of its own. Raises RuntimeError when a worker ends by itself."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        found = throughput(plan, kafka, redis, folder, say=say)
        with Installation(kafka, redis, folder / "moving", name="moving", partitions=PARTITIONS) as site:
            workers = [site.start("worker") for _ in range(2)]
            site.wait_held(workers)
            order = Order(site.kafka, plan.rate, seed=plan.seed)
            moved, workers = stalls(site, workers, order, plan.moves)
            say(f"stalls: {moved}")
            lag = lag_truth(site, workers, order)
            say(f"lag: {lag}")
    return {
        "events": plan.events, "rounds": plan.rounds, "partitions": PARTITIONS, "workers": found,
        "stalls": {"load_per_s": plan.rate, "aim_s": AIM_S, **moved}, "lag_truth": lag,
    }  # fmt: skip


def throughput(
    plan: Plan, kafka: KafkaServer, redis: RedisServer, folder: Path, *, say: Callable[[str], None]
) -> dict[str, dict[str, object]]:
    """Figures by how many workers there are; each count has topics of its own and an empty Redis."""
    packs, warm = _packs(plan.events, plan.seed), _packs(WARM_EVENTS, plan.seed + 1)
    servers, found = (kafka.pid, redis.pid), dict[str, dict[str, object]]()
    for count in plan.workers:
        with Installation(kafka, redis, folder / f"of-{count}", name=f"of-{count}", partitions=PARTITIONS) as site:
            workers = [site.start("worker") for _ in range(count)]
            site.wait_held(workers)
            _filled(site, workers, servers, warm, WARM_EVENTS)
            runs = [_filled(site, workers, servers, packs, plan.events) for _ in range(plan.rounds)]
            held = [sum(name.startswith(f"{EVENTS}/") for name in worker.held()) for worker in workers]
            _stop(workers)
        redis.client().flushdb()
        found[str(count)] = figures(runs) | {"events_partitions_each": held}
        say(f"{count} workers: {found[str(count)]}")
    return found


def figures(runs: Sequence[Run]) -> dict[str, object]:
    """Medians over the runs; CPU per event is all workers', and each one's share of it is told."""
    shares = [[cpu / sum(run.worker_cpu_s) for cpu in run.worker_cpu_s] for run in runs]
    return {
        "events_per_s": round(median(run.events / run.events_s for run in runs)),
        "full_per_s": round(median(run.events / run.all_s for run in runs)),
        "worker_us_per_event": round(median(1e6 * sum(run.worker_cpu_s) / run.events for run in runs), 2),
        "redis_us_per_event": round(median(1e6 * run.redis_cpu_s / run.events for run in runs), 2),
        "kafka_us_per_event": round(median(1e6 * run.kafka_cpu_s / run.events for run in runs), 2),
        "cores_each": [round(median(run.worker_cpu_s[n] / run.all_s for run in runs), 2) for n in range(len(runs[0].worker_cpu_s))],
        "share_max": round(max(max(share) for share in shares), 2),
        "machine_cores": round(median(run.machine_cpu_s / run.all_s for run in runs), 2),
        "appended_s": round(median(run.appended_s for run in runs), 2),
    }


def _filled(site: Installation, workers: Sequence[Program], servers: tuple[int, int], packs: Sequence[Entry], events: int) -> Run:
    """Append, and wait until all of it and all that came of it is applied."""
    pids = [*(worker.pid for worker in workers), *servers]
    spent, busy = [cpu_s(pid) for pid in pids], machine_busy_s()
    with KafkaLog(site.kafka) as log:
        began = time.perf_counter()
        for start in range(0, len(packs), APPENDED_AT_ONCE):
            log.append(EVENTS, packs[start : start + APPENDED_AT_ONCE], now_ms=0)
        appended_s = time.perf_counter() - began
    events_s, all_s = (_until(site, topic, workers) - began for topic in APPLIED)
    *worker_cpu_s, kafka_cpu_s, redis_cpu_s = (cpu_s(pid) - before for pid, before in zip(pids, spent, strict=True))
    return Run(events, events_s, all_s, appended_s, tuple(worker_cpu_s), kafka_cpu_s, redis_cpu_s, machine_busy_s() - busy)


def _until(site: Installation, topic: str, workers: Sequence[Program]) -> float:
    """Wait until what is on the topic now is applied; when that was seen."""
    site.wait(partial(site.beyond, topic, site.ends(topic)), workers)
    return time.perf_counter()


def _packs(events: int, seed: int) -> list[Entry]:
    """Packs by partition of their users, in the order of their last event."""
    users, items = draw(events, seed=seed)
    where = partitions_of(pa.array([f"u{user}" for user in users.tolist()], pa.string()), PARTITIONS)
    rows: list[tuple[int, I64s]] = [(partition, np.flatnonzero(where == partition)) for partition in range(PARTITIONS)]
    parts = [(partition, mine[at : at + PACK_EVENTS]) for partition, mine in rows for at in range(0, len(mine), PACK_EVENTS)]
    parts.sort(key=lambda part: int(part[1][-1]))
    return [Entry(partition, encode_pack(pack(users, items, part)), PACK) for partition, part in parts]


def _stop(workers: Sequence[Program]) -> None:
    for worker in workers:
        if worker.stop():
            raise RuntimeError(f"a worker did not end in order: {worker.said()}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
