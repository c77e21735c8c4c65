"""An installation as its operators run it: processes of the command line over one Kafka and one Redis, looked at from outside.

    with Installation(kafka, redis, folder, name="a") as site:
        workers = [site.start("worker") for _ in range(2)]; site.wait_held(workers); site.marks("events")

Watermarks, epochs and ends are read here without the product's own code for it: they are what its commands are compared with.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from kafka import KafkaConsumer, TopicPartition

from bench.services import LOOPBACK, ROOT, KafkaServer, RedisServer, free_port, wait_until
from freshet.settings import PREFIX, TESTS_OWN, Settings
from storage.slots import tags
from storage.state_redis import RedisState
from stream.edges import EDGES
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.shape import Shape
from stream.topics import create

APPLIED: Final = (EVENTS, EDGES)
START_S: Final = 120.0
STOP_S: Final = 20.0
ASK_S: Final = 10.0
_USER_TICKS, _SYSTEM_TICKS = 11, 12
"""Fields of /proc/PID/stat behind the command's name."""
_IDLE, _WAITING = 3, 4
"""Of the first line of /proc/stat."""


@dataclass(frozen=True)
class Mark:
    """How far a partition is applied, and how often it was claimed."""

    epoch: int
    watermark: int


class Program:
    """One process of the product, its page or api on a port of its own. What it says goes to a file."""

    def __init__(self, command: str, *, environment: Mapping[str, str], folder: Path) -> None:
        self.command, self.port = command, free_port()
        self._output = folder / f"{command}-{self.port}.log"
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "freshet", command, "--port", str(self.port)],
                cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def get(self, path: str) -> dict[str, Any]:
        """A JSON answer, also one that says that something is wrong; nothing while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=ASK_S) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        except OSError:
            return {}
        return found

    def held(self) -> set[str]:
        """The partitions a worker has claimed, `topic/partition`."""
        return set(self.get("/healthz").get("partitions", ()))

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far."""
        return cpu_s(self.pid)

    def send(self, how: signal.Signals) -> None:
        """A signal; nothing is waited for."""
        self._process.send_signal(how)

    def stop(self) -> int:
        """SIGTERM; its exit status. Raises RuntimeError with its last words when it does not end in time."""
        self.send(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit status. Raises RuntimeError with its last words when it does not end in time."""
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise RuntimeError(f"freshet {self.command} did not stop within {STOP_S:.0f} s: {self.said()}") from error

    def kill(self) -> None:
        """kill -9, also of one that stands still."""
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """The end of what it has said."""
        return self._output.read_text(errors="replace")[-2000:]


class Installation:
    """Topics and keys under a name of their own; the processes that were started here end here."""

    def __init__(self, kafka: KafkaServer, redis_server: RedisServer, folder: Path, *, name: str, partitions: int = 12) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shape, self.programs = folder, Shape(partitions=partitions), list[Program]()
        given: dict[str, Any] = {
            "kafka": kafka.bootstrap, "kafka_prefix": f"{name}-", "kafka_group": name, "redis": redis_server.url, "redis_prefix": name,
            "partitions": str(partitions), "store": str(folder / "store"), "data": str(folder / "data"),
        }  # fmt: skip
        told = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX) or key.startswith(TESTS_OWN)}
        self.environment = told | {f"{PREFIX}{key.upper()}": value for key, value in given.items()}
        self.settings = Settings(**given)
        self.kafka = Kafka(kafka.bootstrap, prefix=f"{name}-")
        self.client: redis.Redis = redis.Redis.from_url(redis_server.url)
        self.state = RedisState(self.client, partitions=partitions, prefix=name)
        create(self.kafka, partitions=partitions, replicas=1)
        self._reader = KafkaConsumer(**self.kafka.options(), group_id=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in self.programs:
            if program.alive:
                program.kill()
        self._reader.close()
        self.state.close()

    def start(self, command: str) -> Program:
        """`freshet COMMAND`, as it comes."""
        program = Program(command, environment=self.environment, folder=self.folder)
        self.programs.append(program)
        return program

    def run(self, *arguments: str) -> str:
        """What a command prints. Raises RuntimeError with what it says when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "freshet", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=START_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"freshet {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def wait_held(self, workers: Sequence[Program]) -> None:
        """Until these workers, and nobody else, hold all partitions, and each some. Raises RuntimeError with a dead one's last words."""
        self.wait(lambda: self.all_held(workers), workers)

    def all_held(self, workers: Sequence[Program]) -> bool:
        """Whether these workers share all partitions, and each holds some."""
        wanted = {f"{topic}/{partition}" for topic in APPLIED for partition in range(self.shape.partitions)}
        held = [worker.held() for worker in workers]
        return all(held) and sum(map(len, held)) == len(wanted) and set().union(*held) == wanted

    def wait_ready(self, api: Program) -> None:
        """Until it answers look-ups."""
        self.wait(lambda: api.get("/readyz").get("status") == "ready", [api])

    def wait_applied(self, workers: Sequence[Program]) -> None:
        """Until everything that is on a topic now is applied: first events, then the edges that came of them."""
        for topic in APPLIED:
            self.wait(partial(self.beyond, topic, self.ends(topic)), workers)

    def beyond(self, topic: str, ends: Sequence[int]) -> bool:
        """Whether every watermark of a topic has reached these ends."""
        return all(mark.watermark >= end for mark, end in zip(self.marks(topic), ends, strict=True))

    def wait(self, ready: Callable[[], bool], programs: Sequence[Program]) -> None:
        """Until it is so. Raises RuntimeError with the last words of whoever died, or of all when time is up."""
        try:
            wait_until(ready, seconds=START_S, alive=lambda: all(program.alive for program in programs))
        except TimeoutError as error:
            blamed = [program for program in programs if not program.alive] or programs
            raise RuntimeError("\n".join(f"freshet {program.command}: {program.said()}" for program in blamed)) from error

    def marks(self, topic: str) -> list[Mark]:
        """Each partition's, by plain reads of the keys."""
        with self.client.pipeline(transaction=False) as pipe:
            for tag in tags(self.shape.partitions):
                pipe.hmget(f"{self.settings.redis_prefix}:{{{tag}}}:stream:{topic}", "e", "w")
            return [Mark(int(epoch or 0), int(mark or 0)) for epoch, mark in pipe.execute()]

    def ends(self, topic: str) -> list[int]:
        """Each partition's next offset, as a reader of its own is told."""
        asked = [TopicPartition(self.kafka.topic(topic), partition) for partition in range(self.shape.partitions)]
        found = self._reader.end_offsets(asked)
        return [int(found[where]) for where in asked]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads, children apart."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK")


def machine_busy_s() -> float:
    """CPU seconds that all processes of this machine have spent so far: what is not ours of it made our figures worse."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[_IDLE] - ticks[_WAITING]) / os.sysconf("SC_CLK_TCK")
