"""The worker as faust runs it: supervision, a web page, and the hot path as a service of its own thread.

faust never touches the topics of events and edges: an exception in an agent would acknowledge and skip, and its tables
count again after a kill. The service polls, applies and commits by itself (`stream/worker.py`); here it is started,
watched and stopped. Nothing is copied when partitions move, because the state lies elsewhere.

Entities are few, and applied at least once: they are faust's, in an agent.

The page has `/healthz` and `/metrics`. A service that is away is told in the log once a minute, and waited for.

    run_app(worker, entities, kafka, web=Web("127.0.0.1", 6066), clock_ms=now_ms)
"""

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faust
from faust.web import Request, Response, View
from mode import CrashingSupervisor, Service

from storage.log import JSON, Record
from stream.entities import ENTITIES
from stream.entity_writer import EntityWriter
from stream.kafka import SESSION_MS, Kafka
from stream.metrics import Metrics
from stream.watching import Progress, Watch
from stream.worker import Worker, run

log = logging.getLogger(__name__)
_NO_TABLES: Final = str(Path(tempfile.gettempdir()) / "freshet-worker")
"""Where faust would keep tables; there are none, but it makes the folder, and in the working directory unless told."""
STOP_S: Final = 9.0
"""What has not stopped by then is dropped with the process: nothing of it was committed."""
STUCK_MS: Final = 30_000
"""With records waiting, or the services away, and no watermark moving for so long the worker is not healthy."""
AWAY_TOLD_MS: Final = 60_000


@dataclass(frozen=True)
class Web:
    """Where the worker's page listens."""

    host: str
    port: int


class HotPath(Service):
    """Runs the worker in a thread, watched by another; ends the process when the thread ends by itself."""

    def __init__(self, worker: Worker, watch: Watch, metrics: Metrics, clock_ms: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self._worker, self._watching, self._metrics, self._clock_ms = worker, watch, metrics, clock_ms
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hot-path", daemon=True)
        self._error: BaseException | None = None
        self._told_ms: dict[str, int] = {}

    async def on_start(self) -> None:
        """Begin."""
        self._thread.start()
        self._watching.start()

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            await self.sleep(0.2)
            self._tell_who_is_away(self._clock_ms())
            if not self._thread.is_alive() and not self._stopping.is_set():
                raise RuntimeError(f"the hot path ended: {self._error}") from self._error

    async def on_stop(self) -> None:
        """Let the round end."""
        self._watching.stop()
        self._stopping.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _tell_who_is_away(self, now_ms: int) -> None:
        service = self._watching.progress.away(now_ms)
        if service is not None and now_ms - self._told_ms.get(service, 0) >= AWAY_TOLD_MS:
            self._told_ms[service] = now_ms
            since_s = (now_ms - self._watching.progress.look.at_ms) // 1000
            log.warning("service_away service=%s since_s=%d doing=waiting for it", service, since_s)

    def _run(self) -> None:
        try:
            run(self._worker, clock_ms=self._clock_ms, stopping=self._stopping.is_set, told=self._metrics.told)
        except Exception as error:  # the outermost of this thread: told, and the process ends
            log.exception("hot_path_ended")
            self._error = error


class _Supervised(faust.Worker):
    """faust's worker, which waits for whoever does not answer; once told to stop it has STOP_S."""

    async def on_stop(self) -> None:
        """Begins with the signal, before anything else is stopped."""
        end = threading.Timer(STOP_S, _end_hard)
        end.daemon = True
        end.start()
        await super().on_stop()


def _end_hard() -> None:
    log.error("worker_stopped_hard after_s=%.0f", STOP_S)
    os._exit(1)


def pages(app: faust.App, worker: Worker, progress: Progress, metrics: Metrics, clock_ms: Callable[[], int]) -> None:
    """`/healthz`: 200 while the watermarks move or nothing waits, else 503, and what was seen; `/metrics` for Prometheus."""

    async def healthz(web: View, request: Request) -> Response:
        now_ms, health = clock_ms(), worker.health
        stuck_ms, waiting = progress.stuck_ms(now_ms), sum(standing.lag for standing in progress.look.partitions.values())
        healthy = stuck_ms < STUCK_MS
        seen = {"healthy": healthy, "stuck_ms": stuck_ms, "lag_records": waiting, "events": health.events, "edges": health.edges}
        held = sorted(f"{topic}/{partition}" for topic, partition in health.held)
        return web.json(seen | {"away": progress.away(now_ms), "partitions": held}, status=200 if healthy else 503)

    async def exposed(web: View, request: Request) -> Response:
        return web.bytes(metrics.text(), content_type="text/plain")

    app.page("/healthz")(healthz)
    app.page("/metrics")(exposed)


def entity_agent(app: faust.App, entities: EntityWriter, kafka: Kafka, clock_ms: Callable[[], int]) -> None:
    """One record after the other; an error ends the process before the record is acknowledged, and it comes again."""
    topic = app.topic(kafka.topic(ENTITIES), key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    def write(record: Record) -> None:
        entities.apply(record, now_ms=clock_ms())

    async def apply(stream: Any) -> None:
        loop = asyncio.get_running_loop()
        async for event in stream.events():
            message = event.message
            record = Record(
                message.offset,
                message.partition,
                message.offset,
                int(message.timestamp * 1000),
                JSON,
                message.value or b"",
                message.key or b"",
            )
            await loop.run_in_executor(None, write, record)

    app.agent(topic, name="entities", concurrency=1, supervisor_strategy=CrashingSupervisor)(apply)


def run_app(worker: Worker, entities: EntityWriter, kafka: Kafka, *, web: Web, clock_ms: Callable[[], int]) -> None:
    """Until SIGTERM or SIGINT, or until something goes wrong, which ends the process with a status that is not 0."""
    app = faust.App(
        f"{kafka.prefix}freshet-worker", broker=_brokers(kafka), broker_credentials=_credentials(kafka), store="memory://",
        datadir=_NO_TABLES, web_host=web.host, web_port=web.port, topic_disable_leader=True, topic_allow_declare=False, autodiscover=False,
        broker_session_timeout=SESSION_MS / 1000, stream_wait_empty=False, consumer_auto_offset_reset="earliest",
    )  # fmt: skip
    watch = Watch(worker, kafka, clock_ms)
    metrics = Metrics(watch.progress, clock_ms=clock_ms)
    worker.watched = metrics.at
    app.service(_service(worker, watch, metrics, clock_ms))
    pages(app, worker, watch.progress, metrics, clock_ms)
    entity_agent(app, entities, kafka, clock_ms)
    _Supervised(app, loglevel="warning", redirect_stdouts=False, override_logging=False).execute_from_commandline()


def _service(worker: Worker, watch: Watch, metrics: Metrics, clock_ms: Callable[[], int]) -> type[Service]:
    class Hot(HotPath):
        def __init__(self, **options: Any) -> None:
            super().__init__(worker, watch, metrics, clock_ms, **options)

    return Hot


def _brokers(kafka: Kafka) -> list[str]:
    return [f"kafka://{address}" for address in kafka.bootstrap.split(",")]


def _credentials(kafka: Kafka) -> Any:
    """faust's form of the same secrets; None where the brokers ask for none."""
    if kafka.protocol == "PLAINTEXT":
        return None
    context = kafka.ssl_context() if kafka.protocol.endswith("SSL") else None
    if kafka.protocol == "SSL":
        return context
    return faust.SASLCredentials(username=kafka.user, password=kafka.password, mechanism=kafka.mechanism, ssl_context=context)
