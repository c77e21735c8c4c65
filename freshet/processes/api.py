"""`freshet api`: look-ups and appends of the cluster form over HTTP. It applies nothing: workers do, and it follows them.

run_api(settings)      # returns when it is told to stop
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from kafka.errors import KafkaError

from freshet.clock import now_ms
from freshet.cluster import REDIS_ERRORS
from freshet.learning.asking import Asking
from freshet.learning.weighing import Weighing
from freshet.listening import STOP_S, bound, lifespan, run_on
from freshet.processes.naming import process_name
from freshet.processes.pulse import Pulse
from freshet.processes.serving import QDRANT_ERRORS, ClusterServing, cluster_serving
from freshet.settings import Settings
from serving.api import create_app
from serving.metrics import Metrics
from serving.problems import ProblemBody, reply
from serving.services import Engine as EngineHealth
from serving.services import Services as ApiServices
from serving.shadow import Shadow
from storage.learned import LearnedRedis
from storage.log import JSON, PACK, Entry, Position
from stream.entities import ENTITIES
from stream.events import Entity
from stream.ingest import EVENTS, Tally
from stream.kafka import KafkaUnreachable
from stream.replay import digests
from stream.routing import partition_of
from stream.tailing import Tail
from stream.wire import decode_event

STUCK_MS: Final = 30_000


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what `cluster_serving` raises, OSError when the port is taken."""
    with cluster_serving(settings, process=process_name("api"), refreshes=False) as site, bound(settings.host, settings.port) as listener:
        metrics = Metrics()
        if settings.shadow_share:
            away = (*REDIS_ERRORS, *QDRANT_ERRORS)
            site.following.shadow = Shadow(site.serving.lookup, now_ms, share=settings.shadow_share, metrics=metrics, away=away)
        if settings.online_per_s:
            _listen(site, settings)
        pulse = Pulse(site, name="api")
        app = create_app(api_services(site, pulse, metrics))
        app.router.lifespan_context = lifespan(partial(_start, site, pulse), partial(_stop, site, pulse))
        install_away(app)
        run_on(listener, app, stop_s=STOP_S)


def _listen(site: ClusterServing, settings: Settings) -> None:
    """Have events looked at as they are published; an api process learns weights for itself, from what it sees."""
    weighing = Weighing(site.serving, kept=LearnedRedis(site.services.client, site.services.prefix))
    every_ms = int(1000 / settings.online_per_s)
    site.tail = Tail(site.services.log.kafka, partitions=site.services.shape.partitions, every_ms=every_ms, clock_ms=now_ms)
    site.asking = Asking(site.serving, every_ms=every_ms, generator=np.random.default_rng(), weighing=weighing)


def _start(site: ClusterServing, pulse: Pulse) -> None:
    pulse.start()
    if site.tail is not None:
        site.tail.start()


def _stop(site: ClusterServing, pulse: Pulse) -> None:
    if site.tail is not None:
        site.tail.stop()
    pulse.stop()


def api_services(site: ClusterServing, pulse: Pulse, metrics: Metrics) -> ApiServices:
    """What the routes are given to work with."""
    log, shape, state = site.services.log, site.services.shape, site.services.state
    progress = site.follower.progress

    def append_events(messages: Sequence[bytes], form: int) -> Sequence[Position]:
        entries = [Entry(_partition(body, form, shape.partitions), body, form) for body in messages]
        landed = log.append(EVENTS, entries, now_ms=now_ms())
        return [at._replace(number=progress.number_of(at.partition, at.offset)) for at in landed]

    def append_entities(messages: Sequence[bytes]) -> Sequence[Position]:
        return log.append(ENTITIES, [_entity(body, shape.partitions) for body in messages], now_ms=now_ms())

    def health() -> EngineHealth:
        alive = pulse.is_alive() and now_ms() - pulse.moved_ms < STUCK_MS
        current = site.serving.current
        if current is not None:
            metrics.model(current.live.version, generation=current.live.generation, collection=current.live.collection)
        if site.asking is not None:
            metrics.online(site.asking.statistics.summary(len(site.serving.view.catalogue)))
        return EngineHealth(alive=alive, lag_records=0, stuck_ms=0, dirty_items=site.dirty)

    def digest() -> Mapping[str, object]:
        """As of some moment between the first and the last read: equal to a replay's only while nothing is applied."""
        return {"digest": digests(state, shape.partitions), "below": progress.as_of.number + 1}

    def answered(user_id: str, k: int) -> None:
        if site.following.shadow is not None:
            site.following.shadow.note(user_id, k)

    return ApiServices(
        lookup=site.serving.lookup, append_events=append_events, append_entities=append_entities, engine=health,
        status=lambda: status(site), digest=digest, ready=pulse.is_alive, metrics=metrics, clock_ms=now_ms, answered=answered,
    )  # fmt: skip


def install_away(app: FastAPI) -> None:
    """A service that does not answer is no error of ours: one short answer, and no traceback a request."""
    for kind in (*REDIS_ERRORS, *QDRANT_ERRORS, KafkaError, KafkaUnreachable):
        app.add_exception_handler(kind, _away)


def _away(request: Request, error: Exception) -> Response:
    what = f"a service behind this one does not answer ({type(error).__name__})"
    return reply(503, ProblemBody(what, None, "", "ask again shortly; freshet doctor says which"))


def status(site: ClusterServing) -> Mapping[str, object]:
    """What this process knows; `freshet lag` compares watermarks with the log's ends."""
    record, serving, tally = site.serving.registry.live(), site.serving, Tally()
    for part in site.follower.tallies.values():
        tally.accepted, tally.duplicates = tally.accepted + part.accepted, tally.duplicates + part.duplicates
        tally.newest_ms = max(tally.newest_ms, part.newest_ms)
        for kind, count in part.dead_letters.items():
            tally.dead_letters[kind] = tally.dead_letters.get(kind, 0) + count
    return {
        "tallies": msgspec.to_builtins(tally),
        "as_of": msgspec.to_builtins(serving.view.progress.as_of),
        "items": len(serving.view.catalogue),
        "live": msgspec.to_builtins(record) if record else None,
        "answers_from": serving.current.live.version if serving.current else None,
        "processes": [msgspec.to_builtins(beat) for beat in site.health.read()],
        "versions": [version.name for version in serving.registry.versions()],
        "weights": site.asking.weighing.told if site.asking else None,
        "online": site.asking.statistics.summary(len(serving.view.catalogue)) if site.asking else None,
        "decisions": serving.registry.decisions()[-5:],
    }


def _partition(body: bytes, form: int, partitions: int) -> int:
    """Its user's; 0 for a message that names none, which becomes a dead letter there, and for a pack, which is not taken apart here."""
    if form == PACK:
        return 0
    try:
        return partition_of(decode_event(body).user_id, partitions)
    except ValueError:
        return 0


def _entity(body: bytes, partitions: int) -> Entry:
    """Keyed by what it is of: the topic keeps the newest of each key. What cannot be read becomes a dead letter."""
    try:
        entity = msgspec.json.decode(body, type=Entity)
    except ValueError:
        return Entry(0, body, JSON)
    key = f"{entity.kind}:{entity.id}"
    return Entry(partition_of(key, partitions), body, key=key.encode("utf-8", "surrogatepass"))
