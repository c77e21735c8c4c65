"""Real services as local processes: Kafka (plain Java), Redis and a Redis Cluster on free loopback ports, for tests, benches, the demo.

What is started here is stopped here, by its process id; nothing else is touched. Kafka's jars come from Maven once, into a
folder that git ignores. With users, passwords and TLS they are in `bench/secured.py`.

    with KafkaServer(folder) as kafka, RedisServer(folder) as redis: ...kafka.bootstrap, redis.url...
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis

ROOT: Final = Path(__file__).resolve().parents[1]
KAFKA_VERSION: Final = "4.1.1"
JARS: Final = ROOT / ".cache" / f"kafka-{KAFKA_VERSION}"
LOOPBACK: Final = "127.0.0.1"
START_S: Final = 120.0
STOP_S: Final = 20.0
SLOTS: Final = 16_384
CLUSTER_NODES: Final = 3
NODE_TIMEOUT_MS: Final = 2000
"""A node that is silent for so long counts as dead."""
_given: Final = set[int]()
"""Ports that were handed out."""


class ServiceUnavailable(RuntimeError):
    """A program is not installed, or did not come up; the message says what to do."""


class Server:
    """A process with a port. `start` waits until it answers; `kill` is kill -9; a stopped one may be started again on its data."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        stop_as_interrupted()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's id. Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} does not run")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises `ServiceUnavailable` with the last lines of its output."""
        output = self.folder / "output.log"
        with output.open("ab") as sink:
            self._process = subprocess.Popen(self._command(), stdout=sink, stderr=sink, cwd=self.folder, start_new_session=True)
        try:
            wait_until(self._answers, seconds=START_S, alive=lambda: self._process is not None and self._process.poll() is None)
        except TimeoutError as error:
            self.stop()
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-15:])
            raise ServiceUnavailable(f"{type(self).__name__} did not come up on port {self.port}: {error}\n{tail}") from error

    def stop(self) -> None:
        """Stop it in order, hard after a while."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class KafkaServer(Server):
    """One KRaft broker. `properties` are added to its settings; topics get `LogAppendTime`."""

    def __init__(self, folder: Path, *, properties: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._controller = free_port()
        self._jars = kafka_jars()
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            **self._listeners({"PLAINTEXT": self.port}),
            "log.dirs": str(folder / "data"),
            "log.message.timestamp.type": "LogAppendTime",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "log.retention.check.interval.ms": "500",
            **self._security(),
            **(properties or {}),
        }
        self._properties = folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._log4j = folder / "log4j2.properties"
        self._log4j.write_text(
            "rootLogger.level=warn\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\n"
        )
        if not (folder / "data").exists():
            self._format()

    @property
    def bootstrap(self) -> str:
        """host:port."""
        return f"{LOOPBACK}:{self.port}"

    def client_options(self) -> dict[str, Any]:
        """What a client that may do everything is made of."""
        return {"bootstrap_servers": self.bootstrap}

    def _security(self) -> dict[str, str]:
        """Settings that go before the plain ones."""
        return {}

    def _users(self) -> Sequence[str]:
        """What the storage is formatted with besides its id."""
        return ()

    def _listeners(self, ports: Mapping[str, int]) -> dict[str, str]:
        """A listener for each protocol; the controller's is for the broker itself."""
        ours = ",".join(f"{protocol}://{LOOPBACK}:{port}" for protocol, port in ports.items())
        return {
            "listeners": f"{ours},CONTROLLER://{LOOPBACK}:{self._controller}",
            "advertised.listeners": ours,
            "listener.security.protocol.map": ",".join([f"{name}:{name}" for name in ports] + ["CONTROLLER:PLAINTEXT"]),
        }

    def _java(self, *arguments: str) -> list[str]:
        return [
            shutil.which("java") or "java", "-Xmx768m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4",
            f"-Dlog4j2.configurationFile={self._log4j}", "-cp", f"{self._jars}/*", *arguments,
        ]  # fmt: skip

    def _format(self) -> None:
        command = self._java("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._properties), *self._users())
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        if done.returncode != 0:
            raise ServiceUnavailable(f"Kafka's storage could not be formatted: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _command(self) -> Sequence[str]:
        return self._java("kafka.Kafka", str(self._properties))

    def _answers(self) -> bool:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        if not _listens(self.port):
            return False
        try:
            client = KafkaAdminClient(**self.client_options(), bootstrap_timeout_ms=2000)
        except KafkaError:
            return False
        client.close()
        return True


class RedisServer(Server):
    """One Redis, append-only file synced each second. `options` are command-line settings such as "--requirepass"."""

    def __init__(self, folder: Path, *, options: Sequence[str] = (), append_only: bool = True) -> None:
        super().__init__(folder)
        if shutil.which("redis-server") is None:
            raise ServiceUnavailable("redis-server is not installed: apt-get install redis-server")
        self._options, self._append_only = options, append_only

    @property
    def url(self) -> str:
        """redis://host:port."""
        return f"redis://{LOOPBACK}:{self.port}"

    def client(self) -> "redis.Redis":
        """A client that may do everything."""
        return redis.Redis.from_url(self.url)

    def _command(self) -> Sequence[str]:
        return [
            "redis-server", "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes" if self._append_only else "no", "--appendfsync", "everysec",
            "--auto-aof-rewrite-min-size", "512mb", "--maxmemory-policy", "noeviction", "--daemonize", "no", *self._options,
        ]  # fmt: skip

    def _answers(self) -> bool:
        """Not while it reads what it had written, nor while it does not let in yet who may do everything."""
        if not _listens(self.port):
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class RedisCluster:
    """Redis servers that share the slots evenly, without replicas: while one is away the cluster refuses everything.

    `make` makes a node of a folder and of the options that put it into a cluster.
    """

    def __init__(self, folder: Path, make: Callable[[Path, Sequence[str]], RedisServer] | None = None) -> None:
        self._bus = [free_port() for _ in range(CLUSTER_NODES)]
        make = make or (lambda place, options: RedisServer(place, options=options))
        self.nodes = [make(folder / str(n), _in_a_cluster(bus)) for n, bus in enumerate(self._bus)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of its first node, which knows the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start the nodes, give them the slots, let them meet, and wait until all say that all is well. What fails leaves none behind."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for node in self.nodes:
            node.start()
        for n, (node, bus) in enumerate(zip(self.nodes, self._bus, strict=True)):
            with node.client() as client:
                first, end = n * SLOTS // CLUSTER_NODES, (n + 1) * SLOTS // CLUSTER_NODES
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            with self.nodes[0].client() as client:
                client.execute_command("CLUSTER MEET", LOOPBACK, node.port, bus)
        self.wait_well()

    def wait_well(self) -> None:
        """Until every node says that all slots are served."""
        wait_until(lambda: all(map(_well, self.nodes)), seconds=START_S)

    def stop(self) -> None:
        """Stop them in order."""
        for node in self.nodes:
            node.stop()


def kafka_jars() -> Path:
    """Kafka's jars, fetched once. Raises `ServiceUnavailable` naming what is missing."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None and not (program == "mvn" and JARS.is_dir()):
            raise ServiceUnavailable(f"{program} is not installed: apt-get install default-jdk-headless maven")
    if not JARS.is_dir():
        aside = JARS.with_name(f"{JARS.name}.{os.getpid()}")
        pom = ROOT / "bench" / "kafka" / "pom.xml"
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={aside}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceUnavailable(f"Kafka's jars could not be fetched by Maven: {done.stdout[-1000:]}")
        try:
            aside.rename(JARS)
        except OSError:  # another process was faster
            shutil.rmtree(aside)
    return JARS


def stop_as_interrupted() -> None:
    """SIGTERM ends this program as Ctrl-C does, so that what it started is stopped; where it is handled already, it stays so."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_port() -> int:
    """A port nobody listens on now, and no other than any before: a server may not be up yet that was told one."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def wait_until(ready: Callable[[], bool], *, seconds: float, alive: Callable[[], bool] = lambda: True, every: float = 0.05) -> None:
    """Ask until it is so. Raises TimeoutError, at once when what is waited for has died."""
    end = time.monotonic() + seconds
    while not ready():
        if not alive():
            raise TimeoutError("it ended by itself")
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(every)


def _in_a_cluster(bus: int) -> list[str]:
    return ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]


def _well(node: RedisServer) -> bool:
    with node.client() as client:
        try:
            found: Any = client.execute_command("CLUSTER INFO")
        except redis.RedisError:
            return False
    told = dict(found) if isinstance(found, dict) else dict(line.split(":", 1) for line in found.decode().splitlines() if ":" in line)
    return told["cluster_state"] == "ok" and int(told["cluster_known_nodes"]) == CLUSTER_NODES


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _cluster_id() -> str:
    """22 characters of base64, as Kafka writes them, the first no hyphen: its command line would take it for an option."""
    return "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
