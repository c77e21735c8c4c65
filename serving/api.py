"""The HTTP face: parse, call, serialize; nothing else.

uvicorn.run(create_app(services), host=host, port=port)
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor

from serving.answers import Answer, Asked, SimilarAnswer
from serving.bodies import ARROW, BODY_BYTES_MAX, RAW, Body, cut
from serving.problems import Problem, ProblemBody, install, reply
from serving.progress import Progress
from serving.services import Services
from storage.histories import TS_MS_MAX
from storage.log import Position
from storage.models import Damaged, StaleRecord, UnknownVersion
from stream.events import ID_BYTES_MAX, Entity, Event

K_MAX: Final = 100
WAIT_MS_MAX: Final = 5000
NUMBER_MAX: Final = 2**53


class IdConvertor(Convertor[str]):
    """Any id in a path, slashes and line breaks included: ids are opaque."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("id", IdConvertor())


class Token(msgspec.Struct, frozen=True):
    """Where the last message of a request landed. Give an event's `number` back as `min_number` to be answered with it applied.

    Topics count apart: the number of an entity says nothing about events.
    """

    topic: str
    partition: int
    offset: int
    number: int


class Appended(msgspec.Struct, frozen=True):
    """`appended` messages are on disk; `malformed` of them are no events as they stand, and become dead letters."""

    appended: int
    malformed: int
    token: Token


Id = Annotated[str, Path(min_length=1, max_length=ID_BYTES_MAX)]
K = Annotated[int, Query(ge=1, le=K_MAX, description="how many items")]
MinNumber = Annotated[int | None, Query(ge=0, le=NUMBER_MAX, description="the token's number of an event that the answer must contain")]
AtMs = Annotated[
    int | None, Query(ge=0, le=TS_MS_MAX, description="the time that ages are counted to, for who replays a log; now without it")
]
WaitMs = Annotated[int, Query(ge=0, le=WAIT_MS_MAX, description="how long to wait for it")]


def create_app(services: Services) -> FastAPI:
    """The application. State is in `services` alone, so several apps may share a process."""
    app = FastAPI(title="freshet", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    install(app)
    _add_producing(app, services)
    _add_looking_up(app, services)
    _add_operating(app, services)
    _add_models(app, services)
    _describe(app)
    return app


def _add_producing(app: FastAPI, services: Services) -> None:
    def append_events(raw: bytes, content_type: str) -> Response:
        body = cut(raw, content_type, what=Event)
        return _appended("events", body, services.append_events(body.messages, body.form))

    def append_entities(raw: bytes, content_type: str) -> Response:
        body = cut(raw, content_type, what=Entity)
        return _appended("entities", body, services.append_entities(body.messages))

    @app.post("/v1/events", status_code=202, responses=_said(202, Appended, 400, 413, 507), openapi_extra=_posts("Event", packs=True))
    async def post_events(request: Request) -> Response:
        """Append events: on disk when this answers, visible to look-ups some milliseconds later."""
        return await run_in_threadpool(append_events, await _read(request), _content_type(request))

    @app.post(
        "/v1/entities", status_code=202, responses=_said(202, Appended, 400, 413, 415, 507), openapi_extra=_posts("Entity", packs=False)
    )
    async def post_entities(request: Request) -> Response:
        """Append what is known of items, collections and queries; the highest `ts_ms` wins."""
        if _content_type(request).startswith(ARROW):
            raise Problem(415, "entities are JSON", value=ARROW, allowed="an object, an array, or lines of objects", do="send JSON")
        return await run_in_threadpool(append_entities, await _read(request), _content_type(request))


def _add_looking_up(app: FastAPI, services: Services) -> None:
    def ready() -> None:
        if not services.ready():
            raise Problem(503, "the state is still being loaded", do="ask again shortly; GET /readyz says when")

    loaded = [Depends(ready)]

    def recommend(user_id: str, k: int, min_number: int | None, at_ms: int | None) -> Response:
        begin = time.perf_counter()
        now_ms = services.clock_ms() if at_ms is None else at_ms
        answer = services.lookup.recommend(user_id, k=k, now_ms=now_ms, asked=Asked(min_number))
        services.metrics.lookup_seconds.observe(time.perf_counter() - begin)
        services.answered(user_id, k)
        return reply(200, answer)

    @app.get("/v1/users/{user_id:id}/recommendations", responses=_said(200, Answer, 422, 503), dependencies=loaded)
    async def recommendations(user_id: Id, k: K = 10, min_number: MinNumber = None, wait_ms: WaitMs = 0, at_ms: AtMs = None) -> Response:
        """What this user may want next, from everything applied so far. A user nobody knows gets what is popular."""
        _check_bytes("user_id", user_id)
        if min_number is not None and wait_ms:
            await _applied(services.lookup.progress, min_number, wait_ms / 1000)
        return await run_in_threadpool(recommend, user_id, k, min_number, at_ms)

    @app.get("/v1/items/{item_id:id}/similar", responses=_said(200, SimilarAnswer, 404, 422, 503), dependencies=loaded)
    def similar(item_id: Id, k: K = 10) -> Response:
        """Items like this one; a new one as soon as it has been embedded."""
        _check_bytes("item_id", item_id)
        return reply(200, services.lookup.similar(item_id, k=k, now_ms=services.clock_ms()))


def _add_operating(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", responses=_said(200, None, 503))
    def healthz() -> Response:
        """Whether this process does its work: 503 when ingest is dead, or stands still while records wait."""
        engine = services.engine()
        if not engine.alive:
            raise Problem(503, "ingest has ended", value=engine.lag_records, do="read the log, then restart the process")
        if engine.lag_records and engine.stuck_ms > services.stuck_ms_max:
            raise Problem(
                503, f"ingest has applied nothing for {engine.stuck_ms} ms while {engine.lag_records} records wait", value=engine.stuck_ms,
                allowed=f"at most {services.stuck_ms_max} ms", do="read the log, then restart the process",
            )  # fmt: skip
        return reply(200, {"status": "alive", "lag_records": engine.lag_records})

    @app.get("/readyz", responses=_said(200, None, 503))
    def readyz() -> Response:
        """Whether look-ups are answered."""
        if not services.ready():
            raise Problem(503, "the state is still being loaded", do="wait")
        return reply(200, {"status": "ready"})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        engine = services.engine()
        services.metrics.lag_records.set(engine.lag_records)
        services.metrics.dirty_items.set(engine.dirty_items)
        return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/digest", responses=_said(200, None))
    def digest() -> Response:
        """The digest of the live state between two commits, for `freshet verify`; ingest waits meanwhile."""
        return reply(200, services.digest())

    @app.get("/v1/status", responses=_said(200, None))
    def status() -> Response:
        """Everything `freshet lag` prints."""
        return reply(200, services.status())


def _add_models(app: FastAPI, services: Services) -> None:
    told, back = services.models, services.roll_back
    if told is not None:

        @app.get("/v1/models", responses=_said(200, None))
        def models() -> Response:
            """The versions that are kept, which is live, and every decision with its reason."""
            return reply(200, told())

    if back is not None:

        @app.post("/v1/models/roll-back", responses=_said(200, None, 409))
        def roll_back() -> Response:
            """Answer from the version before the live one again, on record. Asked twice, the second is refused: it goes one step."""
            try:
                return reply(200, {"version": back()})
            except (UnknownVersion, StaleRecord, Damaged) as error:
                raise Problem(409, str(error), do="GET /v1/models says what is live, and what was before it") from error


def _appended(topic: str, body: Body, positions: Sequence[Position]) -> Response:
    last = positions[-1]
    return reply(202, Appended(len(body.messages), body.malformed, Token(topic, last.partition, last.offset, last.number)))


async def _applied(progress: Progress, number: int, timeout_s: float) -> None:
    """Wait for an append without a thread: those that wait must not keep others from being answered."""
    loop, applied = asyncio.get_running_loop(), asyncio.Event()
    take_back = progress.call_when(number, lambda: loop.call_soon_threadsafe(applied.set))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(applied.wait(), timeout_s)
    take_back()


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").lower()


async def _read(request: Request) -> bytes:
    """The body, refused as soon as it is known to be too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            allowed = f"at most {BODY_BYTES_MAX} bytes"
            raise Problem(413, "the body is too large", value=f"over {BODY_BYTES_MAX} bytes", allowed=allowed, do="send less at once")
        parts.append(part)
    return b"".join(parts)


def _check_bytes(name: str, value: str) -> None:
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > ID_BYTES_MAX:
        allowed = f"at most {ID_BYTES_MAX} bytes of UTF-8"
        raise Problem(422, f"{name} is too long", value=size, allowed=allowed, do="ids are no longer than this anywhere")


def _said(status: int, answer: type[msgspec.Struct] | None, *problems: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers, for OpenAPI: its own structs rather than pydantic's twins of them."""
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"} if answer else {"type": "object"}
    problem = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}}
    said: dict[int | str, dict[str, Any]] = {code: {"description": "the reason and the way out", **problem} for code in problems}
    said[status] = {"description": "as asked", "content": {"application/json": {"schema": schema}}}
    return said


def _posts(name: str, *, packs: bool) -> dict[str, Any]:
    """The body of a producing route, for OpenAPI."""
    one = {"$ref": f"#/components/schemas/{name}"}
    content: dict[str, Any] = {
        "application/json": {"schema": {"oneOf": [one, {"type": "array", "items": one, "minItems": 1}]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "an object a line"}},
    }
    if packs:
        content[ARROW] = {"schema": {"type": "string", "format": "binary"}}
        content[RAW] = {"schema": {"type": "string", "format": "binary", "description": "one message as it is, good or bad"}}
    return {"requestBody": {"required": True, "content": content}}


def _describe(app: FastAPI) -> None:
    """Add our structs to the OpenAPI document, once."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            _, schemas = msgspec.json.schema_components(
                (Answer, SimilarAnswer, Appended, ProblemBody, Event, Entity), ref_template="#/components/schemas/{name}"
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # the way FastAPI documents it
