"""The demo on services: Kafka, Redis, two workers, a trainer and an api process; real events in a loop that is closed per user.

    python -m bench.demo_cluster [--events N] [--data PATH]

A user's look-up waits, at most a second, until the user's event before it is visible; users run side by side, at most 5,000
events apart. The last line is the demo's JSON, of the systems that can be asked over HTTP or be counted from the order of events.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bench.installation import Installation
from bench.lanes import Lanes, Seen, Sent, hits_of
from bench.machine import versions
from bench.services import KafkaServer, RedisServer
from freshet.clock import now_ms
from freshet.cluster import Services, store_of
from freshet.cluster import services as cluster_services
from freshet.commands.demo import CACHE
from freshet.commands.producing import KafkaPlace
from freshet.demo.loop import FIRST_SECONDS_MAX, WARM_SHARE, in_time_order
from freshet.demo.recbole import DATA_NAME, fetch_movielens
from freshet.engine import Engine
from freshet.readers.choose import open_events
from freshet.readers.source import Row, Source
from freshet.settings import PREFIX, Settings
from storage.log import Entry
from storage.models_redis import RedisRegistry
from storage.state import State
from stream.events import Entity
from stream.ingest import EVENTS
from stream.producer import Limits, Producer
from stream.producer_kafka import KafkaSink
from stream.replay import FROM_EVENTS, digest
from stream.wire import BAD_BYTES_MAX

PARTITIONS: Final = 4
SECONDS_MAX: Final = 30.0
"""Of each training but the first, as in the embedded demo."""
TRAIN_EVENTS: Final = 4000
LINGER_S: Final = 0.005
"""A user's next look-up waits for the event before: nothing is gained by company."""
WORKERS: Final = 2
ENTITIES_AT_ONCE: Final = 500
ONLINE_PER_S: Final = 10.0
"""About every sixteenth event teaches the weights, as in the embedded demo."""


def main(arguments: list[str] | None = None) -> None:
    """Run it, and print the JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo_cluster", description="the demo on Kafka, Redis and many processes")
    parser.add_argument("--data", type=Path, help="your own events instead of MovieLens-100K")
    parser.add_argument("--events", type=int, help="only the first so many lines")
    asked = parser.parse_args(arguments)
    source = open_events(asked.data or fetch_movielens(CACHE))
    name = f"{asked.data.resolve().parent.name}/{asked.data.stem}" if asked.data else DATA_NAME
    with tempfile.TemporaryDirectory(prefix="freshet-demo-cluster-") as folder:
        print(msgspec.json.encode(run(source, name, Path(folder), events_max=asked.events)).decode(), flush=True)


def run(source: Source, name: str, folder: Path, *, events_max: int | None = None) -> dict[str, Any]:
    """The whole demo in an empty folder: its figures."""
    began = time.perf_counter()
    rows = in_time_order(source, events_max)
    sent, warm = [numbered(row, n) for n, row in enumerate(rows)], len(rows) // WARM_SHARE
    with ExitStack() as held:
        kafka, redis = held.enter_context(KafkaServer(folder / "kafka")), held.enter_context(RedisServer(folder / "redis"))
        site = held.enter_context(Installation(kafka, redis, folder / "site", name="demo", partitions=PARTITIONS))
        site.environment |= trainings(warm, seconds_max=FIRST_SECONDS_MAX, threads=os.cpu_count() or 1)
        services = held.enter_context(cluster_services(site.settings))
        said(f"{name}: {len(rows):,} events; starting {WORKERS} workers and an api process ...")
        workers, api = [site.start("worker") for _ in range(WORKERS)], site.start("api")
        site.wait_held(workers)
        site.wait_ready(api)
        items = fill_catalogue(source, services)
        producer = held.enter_context(Producer(KafkaSink(services.kafka), limits=Limits(linger_s=LINGER_S)))
        for event in sent[:warm]:
            producer.send_raw(event) if isinstance(event, bytes) else producer.send(event)
        producer.flush()
        site.wait_applied(workers)
        said(f"history: {warm:,} events applied; the trainer makes the first model ...")
        trainer = site.start("trainer")
        site.wait(lambda: api.get("/v1/status").get("answers_from") is not None, [*workers, api, trainer])
        trainer.stop()  # the first training had all cores, as nobody was served; the next ones have one
        site.environment |= trainings(warm, seconds_max=SECONDS_MAX, threads=1)
        trainer = site.start("trainer")
        said(f"live: {api.get('/v1/status')['answers_from']}; streaming {len(rows) - warm:,} events ...")
        streaming = time.perf_counter()
        seen = Lanes(producer, api.port, partitions=PARTITIONS).run(sent[:warm], sent[warm:], items, told=said)
        per_s = len(sent[warm:]) / (time.perf_counter() - streaming)
        site.wait_applied(workers)
        figures = conclude(site, services, seen, api.get("/v1/status")) | {
            "data": name, "events": len(rows), "events_per_s": per_s, "workers": WORKERS, "partitions": PARTITIONS,
            "digest_embedded": embedded_digest(services, folder / "embedded"), "hit_at_10": hits_of(seen, sent, warm, items),
            "stopped": [program.stop() for program in (*workers, api, trainer)], "seconds": time.perf_counter() - began,
        }  # fmt: skip
    return {"bench": "demo", **figures, "rss_mb": peak_rss_mb(), **versions()}


def trainings(warm: int, *, seconds_max: float, threads: int) -> dict[str, str]:
    """As the embedded demo trains: back to back, each a trunk, none in shadow. The trainer reads the archive: it is written often."""
    given = {
        "train_events_min": max(100, min(TRAIN_EVENTS, warm)), "train_interval_s": 0, "trunk_every": 1, "train_seconds_max": seconds_max,
        "train_threads": threads, "archive_s": 3, "shadow_share": 0, "online_per_s": ONLINE_PER_S,
    }  # fmt: skip
    return {f"{PREFIX}{key.upper()}": str(value) for key, value in given.items()}


def fill_catalogue(source: Source, services: Services) -> list[str]:
    """Publish what is known of the items, and wait until it is applied; returns all their ids."""
    known = {entity.id: entity for entity in source.entities() if entity.kind == "item"}
    names = list(source.catalogue())
    bodies = iter(msgspec.json.encode(known.get(name) or Entity(kind="item", id=name, ts_ms=1)) for name in names)
    with KafkaPlace(services.kafka) as place:
        while chunk := list(islice(bodies, ENTITIES_AT_ONCE)):
            place.append_entities(chunk)
    return names


def numbered(row: Row, n: int) -> Sent:
    """The event under an id of its own, the same in every run; of a line that is none its bytes."""
    return msgspec.structs.replace(row.event, event_id=f"d{n}") if row.event is not None else row.raw[:BAD_BYTES_MAX] or b" "


def conclude(site: Installation, services: Services, seen: Seen, told: dict[str, Any]) -> dict[str, Any]:
    """What the processes say at the end, and whether the state is what a replay makes of the log."""
    said("replaying both topics (freshet verify) ...")
    verified = site.run("verify")
    decisions = RedisRegistry(services.client, store_of(site.settings, "models"), services.prefix).decisions()
    tally = told["tallies"]
    return {
        "accepted": tally["accepted"],
        "dead_letters": sum(tally["dead_letters"].values()),
        "ranked": len(seen.hits),
        "visible_ms": percentiles(seen.visible_ms),
        "lookup_ms": percentiles(seen.lookup_ms),
        "late_lookups": seen.late / max(1, len(seen.hits)),
        "promotions": sum(bool(decision["promoted"]) for decision in decisions),
        "refusals": sum(not decision["promoted"] for decision in decisions),
        "digest_live": digests_of(services.state),
        "replay_equal": verified.strip().splitlines()[-1] == "equal",
        "model_version": told["answers_from"],
        "weights_learned_from": told["weights"]["learned_from"],
    }


def embedded_digest(services: Services, folder: Path) -> str:
    """Histories, seen-sets and counts of the embedded form for the same log: each partition's records, in their order."""
    with Engine(Settings(data=folder, partitions=PARTITIONS)) as engine:
        for partition in range(PARTITIONS):
            offset = 0
            while records := services.log.read(EVENTS, partition, offset):
                offset = records[-1].offset + 1
                engine.log.append(EVENTS, [Entry(partition, record.value, record.form) for record in records], now_ms=now_ms())
        engine.drain(now_ms=now_ms())
        return digests_of(engine.state)


def digests_of(state: State) -> str:
    """One digest over what follows from `events` alone."""
    return "-".join(digest(state, partition, FROM_EVENTS)[:8] for partition in range(PARTITIONS))


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99."""
    return {f"p{q}": float(np.percentile(values, q)) if values else 0.0 for q in (50, 99)}


def peak_rss_mb() -> float:
    """Of this process and of the largest child, added."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def said(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
