"""One installation in a test: topics and keys under a name of its own, workers as processes, and what it all must come to.

with Site(partitions=3) as site: site.fill(messages); site.work_until_applied(); assert site.rows() == ...
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from bench.services import wait_until
from storage.log import Position
from storage.names import Names
from storage.state import COUNTS, DIGESTED, HISTORIES, SEEN
from storage.state_memory import MemoryState
from storage.state_redis import RedisState
from stream.connecting import Connecting
from stream.deadletters import DEAD_LETTERS, DeadLetter, decode
from stream.edges import EDGES
from stream.ingest import EVENTS, Ingest
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.shape import Shape
from stream.wire import decode as decode_records
from tests.services import kafka_server, redis_server
from tests.stream.event_logs import APPEND_MS, SMALL, Message
from tests.stream.oracle import Oracle

ROOT = Path(__file__).resolve().parents[2]
FROM_EVENTS = (HISTORIES, SEEN, COUNTS)
APPLIED_S = 60.0


class Site:
    """Topics keep the time the test gives them, so that the years its events lie in do not matter."""

    def __init__(self, *, partitions: int) -> None:
        self.shape: Shape = replace(SMALL, partitions=partitions)
        self.name = uuid.uuid4().hex[:12]
        self.kafka = Kafka(kafka_server().bootstrap, prefix=f"{self.name}-")
        admin = KafkaAdminClient(**self.kafka.options())
        settings = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**62), "max.message.bytes": str(2 << 20)}
        topics = [NewTopic(self.kafka.topic(name), partitions, 1, topic_configs=settings) for name in (EVENTS, EDGES)]
        admin.create_topics([*topics, NewTopic(self.kafka.topic(DEAD_LETTERS), 1, 1, topic_configs=settings)])
        admin.close()
        self.log = KafkaLog(self.kafka)
        self.state = RedisState(redis.Redis.from_url(redis_server().url), partitions=partitions, prefix=self.name)
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self.log.close()
        self.state.close()

    def fill(self, messages: Sequence[Message]) -> list[Position]:
        """Append everything."""
        return self.log.append(EVENTS, [message.entry for message in messages], now_ms=APPEND_MS)

    def start(self, **order: Any) -> "subprocess.Popen[bytes]":
        """A worker process; `point` and `hit` say where it kills itself."""
        asked = {"bootstrap": self.kafka.bootstrap, "prefix": self.name, "redis": redis_server().url, "partitions": self.shape.partitions}
        command = [sys.executable, "-m", "tests.cluster.worker_child", json.dumps(asked | order)]
        worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)
        self.workers.append(worker)
        return worker

    def applied(self) -> bool:
        """Whether everything on both topics is applied."""
        return all(
            self.state.watermarks(topic).get(partition, 0) == self.log.end_offset(topic, partition)
            for topic in (EVENTS, EDGES)
            for partition in range(self.shape.partitions)
        )

    def wait_applied(self) -> float:
        """Wait until it is; returns how long that took."""
        began = time.monotonic()
        wait_until(self.applied, seconds=APPLIED_S, alive=lambda: any(worker.poll() is None for worker in self.workers))
        return time.monotonic() - began

    def work_until_applied(self) -> None:
        """One more worker, until everything is applied; it is then stopped in order."""
        claimed = self.epochs(EVENTS) + self.shape.partitions
        worker = self.start()
        wait_until(lambda: self.epochs(EVENTS) >= claimed, seconds=APPLIED_S, alive=lambda: worker.poll() is None)
        self.wait_applied()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=15) == 0, "a worker stops in order"

    def stopped(self, worker: "subprocess.Popen[bytes]") -> bool:
        """Whether the process stands still (SIGSTOP)."""
        return Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def epochs(self, topic: str) -> int:
        """How often the topic's partitions were claimed, in all."""
        keys = [self.state._stream(topic, partition) for partition in range(self.shape.partitions)]
        return sum(int(self.state._client.hget(key, "e") or 0) for key in keys)

    def replayed(self) -> MemoryState:
        """What both topics say, applied by one process to an empty state in memory."""
        state = MemoryState()
        ingest = Ingest(state, self.log, self.shape, names=Names(state), replaying=True, edges_apart=True)
        ingest.claim()
        connecting = Connecting(state, self.log, self.shape, replaying=True)
        for partition in range(self.shape.partitions):
            connecting.claim_partition(partition)
            offset = 0
            while records := self.log.read(EVENTS, partition, offset):
                ingest.apply_decoded(decode_records(records), now_ms=0)
                offset = records[-1].offset + 1
            offset = 0
            while records := self.log.read(EDGES, partition, offset):
                connecting.apply(partition, records)
                offset = records[-1].offset + 1
        return state

    def totals(self) -> dict[str, int]:
        """accepted, duplicates and dead letters over all partitions, from the state."""
        total = {"accepted": 0, "duplicates": 0, "dead": 0}
        for partition in range(self.shape.partitions):
            for _, blob in self.state.scan("tallies", partition):
                tally = json.loads(blob)
                total["accepted"] += tally.get("accepted", 0)
                total["duplicates"] += tally.get("duplicates", 0)
                total["dead"] += sum(tally.get("dead_letters", {}).values())
        return total

    def letters(self) -> list[DeadLetter]:
        """All dead letters, repeated ones included."""
        found, offset = [], 0
        while records := self.log.read(DEAD_LETTERS, 0, offset):
            found += [decode(record.value) for record in records]
            offset = records[-1].offset + 1
        return found

    def assert_effect_once(self, oracle: Oracle, dead: int) -> None:
        """Everything is there once: the oracle's rows and sums, a replay's bytes, each dead letter's origin."""
        accepted, duplicates = sum(oracle.accepted.values()), sum(oracle.duplicates.values())
        assert self.totals() == {"accepted": accepted, "duplicates": duplicates, "dead": dead}
        again = self.replayed()
        for partition in range(self.shape.partitions):
            for table in DIGESTED:
                rows = dict(self.state.scan(table, partition))
                assert rows == dict(again.scan(table, partition)), f"{table} of partition {partition} is a replay's"
                if table in FROM_EVENTS or self.shape.partitions == 1:
                    assert rows == oracle.blobs(table, partition), f"{table} of partition {partition} is the oracle's"
        assert len({letter.origin for letter in self.letters()}) == dead
