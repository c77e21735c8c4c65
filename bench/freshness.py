"""How long it takes until an event can be seen: in an answer of another process, in a neighbour list, in an item's vector.

    python -m bench.freshness --cluster [--rates 2000,5000] [--seconds 20]

A Kafka, a Redis, two `freshet worker` and a `freshet api` of its own; synthetic events, Zipf (exponent 1) over 200,000 users and
100,000 items, from a process of its own at each rate. `bench/probing.py` says what is measured of histories and neighbour
lists; no model is live there. Then the refreshing (`bench/refreshing.py`), 2,000 events/s over 5,000 items: qdrant-client's local
mode is meant for few. `cores` is the CPU of each process while probes ran; `others` is what this machine did beside, and no
figure is worth much where that is not little. The last line is JSON.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.installation import Installation, Program, cpu_s, machine_busy_s
from bench.loading import Load, Order, spread
from bench.machine import versions
from bench.probing import probe_histories, probe_neighbours
from bench.services import KafkaServer, RedisServer
from bench.synthetic import ITEMS, USERS
from stream.producer import Producer
from stream.producer_kafka import KafkaSink

PARTITIONS: Final = 12
WORKERS: Final = 2
WARM_S: Final = 10.0
PROBED_WARM_S: Final = 3.0
"""Of it with probes that do not count: the first ones connect, and a broker's compiler has not seen their requests yet."""
HISTORIES_P99_MS: Final = 250
"""What an event's way into an answer may take."""
REFRESH_RATE: Final = 2000
REFRESH_ITEMS: Final = 5000


@dataclass(frozen=True)
class Plan:
    """What is measured: `seconds` at each rate after WARM_S of it, then as long of refreshing; no `refresh_rate`, none of that."""

    rates: tuple[int, ...] = (2000, 5000)
    seconds: float = 20.0
    warm_s: float = WARM_S
    users: int = USERS
    items: int = ITEMS
    refresh_rate: int = REFRESH_RATE
    refresh_items: int = REFRESH_ITEMS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) < 1 or self.seconds <= 0:
            raise ValueError(f"rates={self.rates} and seconds={self.seconds} must be above 0")


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.freshness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cluster", action="store_true", required=True, help="measure the cluster form (Kafka, Redis)")
    parser.add_argument("--rates", default="2000,5000", help="events a second, one after the other (default 2000,5000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of probes at each rate (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    plan = Plan(rates=tuple(int(rate) for rate in options.rates.split(",")), seconds=options.seconds, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(plan, Path(folder), say=_say)
    print(json.dumps({"bench": "freshness", "form": "cluster", **report, **versions()}))


def measure(plan: Plan, folder: Path, *, say: Callable[[str], None]) -> dict[str, object]:
    """Everything, over services of its own. Raises RuntimeError when a process ends, or an answer was not what it said it was."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    report: dict[str, object] = {
        "partitions": PARTITIONS, "workers": WORKERS, "users": plan.users, "items": plan.items, "model": None,
        "target_ms": {"histories_p99": HISTORIES_P99_MS},
    }  # fmt: skip
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        servers = {"kafka": kafka.pid, "redis": redis.pid}
        with Installation(kafka, redis, folder / "visible", name="visible", partitions=PARTITIONS) as site:
            report["rates"] = _visible(plan, site, servers, say)
        if plan.refresh_rate:
            redis.client().flushdb()
            with Installation(kafka, redis, folder / "refresh", name="refresh", partitions=PARTITIONS) as site:
                workers = [site.start("worker") for _ in range(WORKERS)]
                site.wait_held(workers)
                report["refresh"] = _refreshed(plan, site, workers)
                say(f"refresh: {report['refresh']}")
    return report


def _refreshed(plan: Plan, site: Installation, workers: Sequence[Program]) -> dict[str, object]:
    from bench.refreshing import Refreshing, measure_refresh  # the loads import this module, and need no torch

    order = Order(site.kafka, plan.refresh_rate, plan.users, plan.refresh_items, plan.seed)
    return measure_refresh(Refreshing(order, plan.seconds, plan.warm_s), site, workers)


def _visible(plan: Plan, site: Installation, servers: Mapping[str, int], say: Callable[[str], None]) -> list[dict[str, object]]:
    workers, api = [site.start("worker") for _ in range(WORKERS)], site.start("api")
    site.wait_held(workers)
    site.wait_ready(api)
    found = []
    for rate in plan.rates:
        found.append(_at(rate, plan, site, [*workers, api], servers))
        say(f"{rate:,} events/s: {found[-1]}")
    for program in (*workers, api):
        if program.stop():
            raise RuntimeError(f"freshet {program.command} did not end in order: {program.said()}")
    return found


def _at(rate: int, plan: Plan, site: Installation, programs: Sequence[Program], servers: Mapping[str, int]) -> dict[str, object]:
    """One rate: warm up, probe, and let everything be applied before the next."""
    *workers, api = programs
    order = Order(site.kafka, rate, plan.users, plan.items, plan.seed)
    warm, probes = (Order(site.kafka, rate, plan.users, plan.items, plan.seed + n) for n in (2, 1))
    with Load(order) as load, Producer(KafkaSink(site.kafka)) as producer, ThreadPoolExecutor(1) as beside:
        time.sleep(max(0.0, plan.warm_s - PROBED_WARM_S))
        probe_histories(site, api, producer, warm, seconds=min(PROBED_WARM_S, plan.warm_s))
        named = {f"worker-{n}": worker.pid for n, worker in enumerate(workers)}
        pids = named | {"api": api.pid, "load": load.pid, "bench": os.getpid(), **servers}
        spent, busy, sent, began = _spent(pids), machine_busy_s(), load.sent, time.perf_counter()
        lists = beside.submit(probe_neighbours, site, producer, probes, name=f"probe-{rate}", seconds=plan.seconds)
        histories = probe_histories(site, api, producer, probes, seconds=plan.seconds)
        neighbours = lists.result()
        took = time.perf_counter() - began
        ours = {name: seconds - spent[name] for name, seconds in _spent(pids).items()}
        cores = {name: round(seconds / took, 2) for name, seconds in ours.items()}
        cores["others"] = round(max(0.0, machine_busy_s() - busy - sum(ours.values())) / took, 2)
        figures = {"rate": rate, "events_per_s": round((load.sent - sent) / took), "load_late_ms": load.late_ms}
    begun = time.perf_counter()
    site.wait_applied(workers)
    return figures | {
        "acked_ms": spread(histories.acked_ms), "histories_ms": histories.figures(), "neighbours_ms": neighbours.figures(), "cores": cores,
        "drained_s": round(time.perf_counter() - begun, 2),
    }  # fmt: skip


def _spent(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in pids.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
