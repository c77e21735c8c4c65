"""Installs a peer once, runs it on a topic, and reads what it measured of itself.

    result = run_quix("127.0.0.1:9092", "events", 200_000); result.events_per_s, result.us_per_event

The environment is made under `.cache/peers`, which git ignores, and made anew when the pins change. Only the peer's own process
is measured: the broker and whoever asks stay outside its figures.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

QUIX: Final = Path(__file__).resolve().parent / "quix"
ENVIRONMENTS: Final = Path(__file__).resolve().parents[2] / ".cache" / "peers"
INSTALLED: Final = "installed.txt"
INSTALL_S: Final = 600.0
RUN_S: Final = 1800.0
WAY_OUT: Final = "run where pip reaches a package index (PIP_INDEX_URL says which), or leave the peer out"
SAID_MAX: Final = 1500
"""Characters of a failed program's output that go into the error."""


class PeerUnavailable(RuntimeError):
    """The peer cannot be installed here; the message says why and what to do."""


class PeerFailed(RuntimeError):
    """The peer ran and gave no result; the message has its last words."""


@dataclass(frozen=True)
class PeerResult:
    """Seconds from the first event processed to the last, and on until the peer had committed everything and closed."""

    events: int
    seconds: float
    cpu_seconds: float
    closed_seconds: float
    closed_cpu_seconds: float
    versions: Mapping[str, str]

    @property
    def events_per_s(self) -> float:
        """By the wall, first event to last: what is still uncommitted then is a gift to the peer."""
        return self.events / self.seconds

    @property
    def us_per_event(self) -> float:
        """CPU of the peer's process, all threads, first event to last."""
        return 1e6 * self.cpu_seconds / self.events


def run_quix(bootstrap: str, topic: str, events: int) -> PeerResult:
    """Quix Streams over the first `events` of a topic. Raises `PeerUnavailable`, `PeerFailed`.

    It leaves a consumer group and a changelog topic of its own, under new names each time, on the broker.
    """
    pins = QUIX / "requirements.txt"
    python = environment(ENVIRONMENTS / f"quix-{pinned(pins.read_text(), 'quixstreams')}", pins)
    with tempfile.TemporaryDirectory(prefix="freshet-peer-") as folder:
        arguments = ["--bootstrap", bootstrap, "--topic", topic, "--events", str(events), "--folder", folder]
        return result_of(said_by(python, QUIX / "last_items.py", arguments), events)


def pinned(pins: str, name: str) -> str:
    """The version of one package in a pins file."""
    return dict(line.split("==", 1) for line in pins.split())[name]


def environment(folder: Path, pins: Path) -> Path:
    """The Python of a virtual environment with exactly these pins, made when it is not there. Raises `PeerUnavailable`."""
    wanted, python = pins.read_text(), Path("bin") / "python"
    if _has(folder, wanted):
        return folder / python
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        _install([sys.executable, "-m", "venv", "--without-pip", str(aside)], folder.name)
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        _install([sys.executable, "-m", "pip", "--python", str(aside / python), "install", *quiet, "-r", str(pins)], folder.name)
        (aside / INSTALLED).write_text(wanted)
        if not _has(folder, wanted):  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)  # of other pins
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder / python


def said_by(python: Path, program: Path, arguments: Sequence[str]) -> str:
    """What the program printed. It sees neither our modules nor our PYTHON variables. Raises `PeerFailed`."""
    try:
        done = subprocess.run([str(python), "-I", str(program), *arguments], capture_output=True, text=True, timeout=RUN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"{program.name} was not done after {RUN_S:.0f} s: ask for fewer events") from error
    if done.returncode != 0:
        raise PeerFailed(f"{program.name} ended with {done.returncode}: {done.stderr.strip()[-SAID_MAX:]}")
    return done.stdout


def result_of(said: str, events: int) -> PeerResult:
    """The result on the last line. Raises `PeerFailed` when there is none, or it is not of so many events."""
    last = said.strip().rpartition("\n")[2]
    try:
        result = msgspec.json.decode(last.encode(), type=PeerResult)
    except msgspec.DecodeError as error:
        raise PeerFailed(f"the last line is not a result ({error}): {last[-SAID_MAX:]!r}") from error
    if result.events != events or not 0 < result.seconds <= result.closed_seconds:
        raise PeerFailed(f"{events} events and 0 < seconds <= closed_seconds were expected, not {last[-SAID_MAX:]}")
    return result


def _has(folder: Path, wanted: str) -> bool:
    stamp = folder / INSTALLED
    return stamp.is_file() and stamp.read_text() == wanted


def _install(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"{what} was not installed after {INSTALL_S:.0f} s: {WAY_OUT}") from error
    if done.returncode != 0:
        raise PeerUnavailable(f"{what} cannot be installed: {(done.stderr or done.stdout).strip()[-SAID_MAX:]}\n{WAY_OUT}")
