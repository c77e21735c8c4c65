"""A process's HTTP side: a socket that says what is wrong, a server that stops in order, and the thread beside it.

with bound(host, port) as listener: run_on(listener, app)      # returns on SIGTERM or SIGINT
"""

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool

from serving.problems import Problem, install, reply


def bound(host: str, port: int) -> socket.socket:
    """The listener's socket. Raises OSError with the way out when the address cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}:{port} ({error.strerror}): choose another (--port, --host)") from error
    return listener


def run_on(listener: socket.socket, app: FastAPI) -> None:
    """Serve until SIGTERM or SIGINT."""
    _Quiet(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])


def lifespan(start: Callable[[], None], stop: Callable[[], None]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Start what runs beside the server with it, and stop it with it."""

    @asynccontextmanager
    async def span(app: FastAPI) -> AsyncIterator[None]:
        start()
        try:
            yield
        finally:
            await run_in_threadpool(stop)

    return span


def page(healthy: Callable[[], str], metrics: Callable[[], bytes]) -> FastAPI:
    """`/healthz` and `/metrics` of a process that answers nothing else; `healthy` says what is wrong, or nothing."""
    app = FastAPI(title="freshet", docs_url=None, redoc_url=None, openapi_url=None)
    install(app)

    @app.get("/healthz")
    def healthz() -> Response:
        wrong = healthy()
        if wrong:
            raise Problem(503, wrong, do="read the log, then restart the process")
        return reply(200, {"status": "alive"})

    @app.get("/metrics")
    def text() -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


class _Quiet(uvicorn.Server):
    """uvicorn raises the signal again once it has stopped, which would end the process before its stores are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
