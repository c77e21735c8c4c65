"""A process's HTTP side: a socket that says what is wrong, a server that stops in order, and the thread beside it.

with bound(host, port) as listener: run_on(listener, app)      # returns on SIGTERM or SIGINT
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool

from serving.problems import Problem, install, reply

log = logging.getLogger(__name__)
STOP_S: Final = 9.0
"""For a process that must end within 10 s whoever of its services does not answer."""


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


def run_on(listener: socket.socket, app: FastAPI, *, stop_s: float | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `stop_s` after it the process is ended hard, whatever it waits for."""
    _Quiet(uvicorn.Config(app, log_level="warning", access_log=False), stop_s).run([listener])


def end_at_once() -> NoReturn:
    """For a process that has stopped in order: nothing is left to close, and what Python takes apart by itself takes seconds more."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


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

    def __init__(self, config: uvicorn.Config, stop_s: float | None) -> None:
        super().__init__(config)
        self._stop_s = stop_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins with the first signal, before anything is stopped; it ends with the process."""
        if self._stop_s is not None and not self.should_exit:
            end = threading.Timer(self._stop_s, _end_hard)
            end.daemon = True
            end.start()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_hard() -> None:
    log.error("stopped_hard because=a service did not answer in time")
    os._exit(1)
