"""One installation: topics and keys under a name of its own, processes that work on it, and whether they are done.

    with Site(ground, partitions=3) as site: site.fill(messages); site.keep(2); site.wait_applied()

Topics keep the time they are given, so that the years the made events lie in do not matter.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import redis
from kafka.admin import NewTopic

from bench.faults.messages import APPEND_MS, SMALL, Message
from bench.services import ROOT, KafkaServer, RedisServer, free_port, wait_until
from freshet.cluster import REDIS_ERRORS, Services, admin
from storage.archive import Archive
from storage.log import Position
from storage.places import place_of
from storage.state_redis import RedisState
from stream.deadletters import DEAD_LETTERS, DeadLetter, decode
from stream.edges import EDGES
from stream.entities import ENTITIES
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.shape import Shape

APPLIED: Final = (EVENTS, EDGES)
APPLIED_S: Final = 150.0
STOP_S: Final = 20.0
WORDS: Final = 6000
TOPIC: Final = {
    "message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**62), "max.message.bytes": str(2 << 20),
    "retention.ms": "-1",  # records say that they are years old, and this broker looks for old ones twice a second
}  # fmt: skip
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Ground:
    """The services a fault may harm, and a folder; without one what processes say goes where ours does."""

    kafka: KafkaServer
    redis: RedisServer
    folder: Path | None = None


class Site:
    """Its workers are ended with it."""

    def __init__(self, ground: Ground, *, partitions: int, shape: Shape = SMALL, shared: Sequence[str] = (*APPLIED, ENTITIES)) -> None:
        """`shared` topics are made with so many partitions, that of dead letters with one."""
        self.ground, self.shape, self.name = ground, replace(shape, partitions=partitions), uuid.uuid4().hex[:12]
        self.kafka = Kafka(ground.kafka.bootstrap, prefix=f"{self.name}-")
        with admin(self.kafka) as client:
            topics = [NewTopic(self.kafka.topic(name), partitions, 1, topic_configs=TOPIC) for name in shared]
            client.create_topics([*topics, NewTopic(self.kafka.topic(DEAD_LETTERS), 1, 1, topic_configs=TOPIC)])
            client.wait_for_topics([self.kafka.topic(name) for name in (*shared, DEAD_LETTERS)])
        self.log = KafkaLog(self.kafka)
        self.state = RedisState(redis.Redis.from_url(ground.redis.url), partitions=partitions, prefix=self.name)
        self.workers: list[Process] = []
        self._kept: list[Process] = []

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self.log.close()
        self.state.close()

    @property
    def folder(self) -> Path:
        """Of this installation alone."""
        assert self.ground.folder is not None, "a ground without a folder has no store"
        return self.ground.folder / self.name

    @property
    def services(self) -> Services:
        """What the operators' commands work with."""
        return Services(self.kafka, self.log, self.state, self.shape, client=self.state._client, prefix=self.name, group=self.name)

    @property
    def archive(self) -> Archive:
        """What its workers write and its commands read, as it is now."""
        return Archive(place_of(str(self.folder / "store" / "archive")), read_only=True)

    def fill(self, messages: Sequence[Message]) -> list[Position]:
        """Append everything."""
        return self.log.append(EVENTS, [message.entry for message in messages], now_ms=APPEND_MS)

    def look_again(self) -> None:
        """A new client, which knows none of the topics that were there before."""
        self.log.close()
        self.log = KafkaLog(self.kafka)

    def start(self, **order: Any) -> Process:
        """A worker with the small bounds; `point` and `hit` say where it kills itself, `pause` where it stops."""
        asked = {
            "bootstrap": self.kafka.bootstrap,
            "prefix": self.name,
            "redis": self.ground.redis.url,
            "partitions": self.shape.partitions,
        }
        return self._spawn([sys.executable, "-m", "bench.faults.worker", json.dumps(asked | order)], dict(os.environ))

    def worker(self) -> Process:
        """`freshet worker`."""
        return self.process("worker", "--port", str(free_port()))

    def process(self, *arguments: str, **settings: str) -> Process:
        """One of the product's own processes, by the command line."""
        return self._spawn([sys.executable, "-m", "freshet", *arguments], self.environment(**settings))

    def freshet(self, *arguments: str) -> str:
        """An operator's command; what it printed. Raises RuntimeError with its last words when it fails."""
        command = [sys.executable, "-m", "freshet", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=False, timeout=APPLIED_S)
        if done.returncode:
            raise RuntimeError(f"freshet {' '.join(arguments)} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
        return done.stdout

    def environment(self, **settings: str) -> dict[str, str]:
        """Ours, with the settings of this installation and no other ones."""
        given = {
            "KAFKA": self.kafka.bootstrap, "KAFKA_PREFIX": self.kafka.prefix, "KAFKA_GROUP": self.name, "REDIS": self.ground.redis.url,
            "REDIS_PREFIX": self.name, "PARTITIONS": str(self.shape.partitions), "STORE": str(self.folder / "store"),
            "DATA": str(self.folder / "data"), "ARCHIVE_S": "1",
        }  # fmt: skip
        others = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
        return others | {f"FRESHET_{name}": value for name, value in (given | settings).items()}

    def keep(self, count: int) -> list[Process]:
        """So many `freshet worker`, each started again whenever it has ended, as an orchestrator does."""
        self._kept += [self.worker() for _ in range(count)]
        return self._kept

    def tend(self) -> None:
        """Start what is kept and has ended."""
        self._kept = [worker if worker.poll() is None else self.worker() for worker in self._kept]

    def stop(self, worker: Process) -> None:
        """In order. Raises RuntimeError when it does not end well."""
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(STOP_S)
        if code != 0:
            raise RuntimeError(f"a worker that was told to stop ended with {code}")

    def stop_kept(self) -> None:
        """All of them; what they archive is then whole."""
        kept, self._kept = self._kept, []
        for worker in kept:
            self.stop(worker)

    def applied(self) -> bool:
        """Whether everything on both topics is applied; not while a service is away."""
        return all(self.left(topic, n) == 0 for topic in APPLIED for n in range(self.shape.partitions))

    def left(self, topic: str, partition: int) -> int:
        """Records that are not applied yet."""
        return self.log.end_offset(topic, partition) - self.state.watermarks(topic).get(partition, 0)

    def wait_applied(self) -> float:
        """Wait until all is, whatever services do meanwhile; returns how long that took."""
        began = time.monotonic()
        self.wait(self.applied, alive=lambda: any(worker.poll() is None for worker in self.workers))
        return time.monotonic() - began

    def wait(self, ready: Callable[[], bool], *, alive: Callable[[], bool] = lambda: True, seconds: float = APPLIED_S) -> None:
        """Until it is so; a service that is away is no answer. What is kept is tended meanwhile."""

        def answered() -> bool:
            self.tend()
            try:
                return ready()
            except (KafkaUnreachable, *REDIS_ERRORS):
                return False

        try:
            wait_until(answered, seconds=seconds, alive=alive)
        except TimeoutError as error:
            raise TimeoutError(f"{error}{self._standing_at()}") from error

    def begun(self) -> bool:
        """Whether something is applied."""
        return any(self.state.watermarks(EVENTS).values())

    def stopped(self, worker: Process) -> bool:
        """Whether the process stands still (SIGSTOP)."""
        return Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def epochs(self, topic: str) -> int:
        """How often the topic's partitions were claimed, in all."""
        keys = [self.state._stream(topic, partition) for partition in range(self.shape.partitions)]
        return sum(int(self.state._client.hget(key, "e") or 0) for key in keys)

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

    def said(self, worker: Process) -> str:
        """What the process has logged so far."""
        return self._output(self.workers.index(worker)).read_text(errors="replace")

    def may_write(self, worker: Process, file_bytes: int = resource.RLIM_INFINITY) -> None:
        """From now on no file of the process may grow beyond this: to it the disk is full."""
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))

    def _standing_at(self) -> str:
        """The last words of those still there, which end with what each of their threads was at; they end with that."""
        left = [worker for worker in self.workers if worker.poll() is None]
        for worker in left:
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGABRT)
            worker.wait()
        return "" if self.ground.folder is None else "".join(f"; process {one.args!r}: {self.said(one)[-WORDS:]}" for one in left)

    def _spawn(self, command: Sequence[str], environment: dict[str, str]) -> Process:
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        if self.ground.folder is None:
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        else:
            self.folder.mkdir(exist_ok=True)
            with self._output(len(self.workers)).open("wb") as sink:
                worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        self.workers.append(worker)
        return worker

    def _output(self, number: int) -> Path:
        return self.folder / f"process-{number}.log"
