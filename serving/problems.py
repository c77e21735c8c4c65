"""What went wrong with a request, for the person or program that sent it: what, which value, what is allowed, what to do.

raise Problem(404, "item 'x' is not known", value="x", allowed="an item of the catalogue", do="POST it to /v1/entities")
"""

import logging
from typing import Final

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serving.answers import NotFound
from storage.log import LogFull

Value = str | int | float | bool | None
_VALUE_MAX: Final = 200
logger = logging.getLogger(__name__)


class Problem(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, error: str, *, value: Value = None, allowed: str = "", do: str = "") -> None:
        super().__init__(error)
        self.status, self.body = status, ProblemBody(error, value, allowed, do)


class ProblemBody(msgspec.Struct, frozen=True):
    """The JSON of a problem."""

    error: str
    value: Value
    allowed: str
    do: str


def install(app: FastAPI) -> None:
    """Every error leaves as a `ProblemBody`, whoever raised it."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(LogFull, _log_full)
    app.add_exception_handler(Exception, _failed)


def reply(status: int, body: object) -> Response:
    """A JSON response by msgspec."""
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return reply(error.status, error.body)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value = first.get("input")
    shown = value if isinstance(value, int | float | bool | None) else str(value)[:_VALUE_MAX]
    allowed = ", ".join(f"{key} {bound}" for key, bound in first.get("ctx", {}).items())
    do = "correct it and ask again; GET /openapi.json lists what is allowed"
    return reply(422, ProblemBody(f"{where}: {first['msg']}", shown, allowed, do))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:_VALUE_MAX]
    if error.status_code == 404:
        return reply(404, ProblemBody("there is nothing at this path", path, "the paths in GET /openapi.json", "check the address"))
    allow = (error.headers or {}).get("Allow", "")
    response = reply(error.status_code, ProblemBody(str(error.detail), f"{request.method} {path}", allow, "see GET /openapi.json"))
    response.headers.update(error.headers or {})
    return response


def _not_found(request: Request, error: Exception) -> Response:
    path = request.url.path[:_VALUE_MAX]
    return reply(404, ProblemBody(str(error), path, "an item of the catalogue", "send it to POST /v1/entities first"))


def _log_full(request: Request, error: Exception) -> Response:
    return reply(507, ProblemBody(str(error), None, "", "nothing was appended; send it again once there is room"))


def _failed(request: Request, error: Exception) -> Response:
    logger.error("api.failed method=%s path=%s", request.method, request.url.path, exc_info=error)
    return reply(500, ProblemBody("an error of ours, it is in the log", None, "", "ask again; if it stays, report it"))
