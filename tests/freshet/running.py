"""A real `freshet serve` in a process of its own, on a free port of the loopback address.

with server(folder) as site: site.post("/v1/events", json=[...])
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S_MAX = 240.0


@dataclass
class Running:
    """A started server: its process and a client of it."""

    process: "subprocess.Popen[bytes]"
    client: httpx.Client

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, *arguments: str, **settings: object) -> Iterator[Running]:
    """Start, wait until it is ready, and end it whatever happens."""
    port = free_port()
    environment = os.environ | {f"FRESHET_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "freshet", "serve", "--data", str(folder), "--port", str(port), *arguments]
    with (folder.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=Path(__file__).parents[2])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        running = Running(process, client)
        try:
            _wait_ready(running, folder.parent / "server.log")
            yield running
        finally:
            if process.poll() is None:
                running.kill()


def _wait_ready(running: Running, log: Path) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        assert running.process.poll() is None, f"the server ended with {running.process.returncode}: {log.read_text()[-2000:]}"
        try:
            if running.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        try:
            running.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"the server was not ready after {START_S_MAX} s: {log.read_text()[-2000:]}")
