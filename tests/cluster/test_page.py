"""`freshet worker` as operators see it: its page, what it logs when a service is away, and its end on SIGTERM also then."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from bench.services import KafkaServer, RedisServer, free_port, wait_until
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.topics import create
from tests.cluster.installation import ROOT
from tests.services import kafka_server, redis_server
from tests.stream.event_logs import APPEND_MS, SMALL, make_messages

STOP_S_MAX = 10.0


@dataclass
class Cluster:
    """Services that may be taken away, and one worker's process."""

    kafka: KafkaServer
    redis: RedisServer
    worker: "subprocess.Popen[bytes]"
    page: str
    log: Path

    def status(self) -> int:
        """What /healthz answers; 0 while nobody does."""
        try:
            return httpx.get(f"{self.page}/healthz", timeout=5).status_code
        except httpx.TransportError:
            return 0

    def metric(self, line: str) -> float:
        """A sample by its name and labels; 0 while there is none."""
        found = [row for row in httpx.get(f"{self.page}/metrics", timeout=5).text.splitlines() if row.startswith(f"{line} ")]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    def wait(self, ready: Callable[[], bool]) -> None:
        """Until it is so, while the worker lives."""
        wait_until(ready, seconds=150, alive=lambda: self.worker.poll() is None, every=0.2)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, RedisServer]]:
    """Services beside the shared ones, which may be taken away; the test that comes last kills one."""
    kafka_server(), redis_server()  # skips where they are not installed
    folder = tmp_path_factory.mktemp("page")
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        create(Kafka(kafka.bootstrap), partitions=2, replicas=1)
        yield kafka, redis


@pytest.fixture
def cluster(services: tuple[KafkaServer, RedisServer], tmp_path: Path) -> Iterator[Cluster]:
    with worker(*services, tmp_path / "worker.log") as made:
        made.wait(lambda: made.status() == 200 and made.metric('freshet_worker_partitions{topic="events"}') == 2)
        yield made


@contextmanager
def worker(kafka: KafkaServer, redis: RedisServer, log: Path) -> Iterator[Cluster]:
    port = free_port()
    settings = {"KAFKA": kafka.bootstrap, "REDIS": redis.url, "PARTITIONS": "2", "PAGE_PORT": str(port), "REDIS_PASSWORD": ""}
    settings |= {"STORE": str(log.with_name("store")), "KAFKA_GROUP": f"worker-{port}"}  # nobody waits for the session of one before
    environment = os.environ | {f"FRESHET_{name}": value for name, value in settings.items()}
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, "-m", "freshet", "worker"], cwd=ROOT, env=environment, stdout=sink, stderr=sink)
    try:
        yield Cluster(kafka, redis, process, f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()


def ended_after(cluster: Cluster) -> float:
    began = time.monotonic()
    cluster.worker.send_signal(signal.SIGTERM)
    cluster.worker.wait(timeout=30)
    return time.monotonic() - began


def test_a_redis_that_hangs_is_named_and_sigterm_ends_the_worker_all_the_same(cluster: Cluster) -> None:
    cluster.redis.pause()
    try:
        cluster.wait(lambda: "service_away service=redis" in cluster.log.read_text())
        assert ended_after(cluster) < STOP_S_MAX
    finally:
        cluster.redis.resume()


def test_the_page_tells_what_is_applied_and_fails_when_kafka_goes_away(cluster: Cluster) -> None:
    messages = make_messages(random.Random(2), replace(SMALL, partitions=2), count=60)
    with KafkaLog(Kafka(cluster.kafka.bootstrap)) as log:
        log.append(EVENTS, [message.entry for message in messages], now_ms=APPEND_MS)
        ends = [log.end_offset(EVENTS, partition) for partition in (0, 1)]
    for partition, end in enumerate(ends):
        cluster.wait(lambda: cluster.metric(f'freshet_worker_watermark_offset{{partition="{partition}",topic="events"}}') == end)  # noqa: B023  # waited for within the turn
    assert cluster.metric("freshet_worker_events_total") > 0 and cluster.metric("freshet_worker_edges_total") > 0
    assert cluster.metric('freshet_worker_lag_records{partition="0",topic="events"}') == 0 and cluster.status() == 200
    cluster.kafka.kill()
    cluster.wait(lambda: cluster.status() == 503)
    assert cluster.metric('freshet_worker_service_away{service="kafka"}') == 1
    assert ended_after(cluster) < STOP_S_MAX
    told = [line for line in cluster.log.read_text().splitlines() if "service_away" in line]
    assert len(told) == 1 and "service=kafka" in told[0], cluster.log.read_text()
