"""Heartbeats: each process says that it lives, what it has loaded and how far it has read; in one small file, or in Redis.

Not a log and not a lock: the last word of each process, lost without harm. The console reads all of them; a promotion
waits for those that serve; a collection named by one is not dropped. `health_redis.py` is the form for many machines.

    health = Health(root / "health")
    health.beat(Beat("serving-0", os.getpid(), at_ms=now_ms, version="g1-h3", collection="items-g1", watermark=8123))
    alive = health.alive(now_ms, within_ms=10_000)
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from storage.files import sweep, write_file

RECORDS_MAX: Final = 256
KEPT_MS: Final = 86_400_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Beat:
    """One process's last word. `watermark`: the number of the last event applied or learned; `at_ms`: when this was said.

    `candidate`: the proposed version it has loaded beside the live one and is ready to answer from; `shadow`: what it saw of that one in
    shadow, if it stood there; `built`: the version whose collection it has filled. `fallen`: why its `version` does worse than the one
    before it, once that is shown; `drifted`: how the outcomes of what it answered fell, the last time they did.
    """

    process: str
    pid: int
    at_ms: int
    version: str | None = None
    collection: str | None = None
    watermark: int | None = None
    candidate: str | None = None
    built: str | None = None
    shadow: dict[str, float] | None = None
    fallen: str | None = None
    drifted: str | None = None


class Beats(Protocol):
    """The last word of each process, by process name and pid; bounded."""

    def beat(self, beat: Beat) -> None:
        """Replace the process's record; those a day older, and the oldest above the bound, go. ValueError for a name that is none."""

    def read(self) -> list[Beat]:
        """Every record, by process name and pid; an unreadable one is left out."""

    def alive(self, now_ms: int, *, within_ms: int) -> list[Beat]:
        """Records not older than `within_ms`."""

    def forget(self, beat: Beat) -> None:
        """Remove the process's record: the last act of a clean end."""


class Health:
    """A folder with a file per process name and pid, at most `records_max`."""

    def __init__(self, folder: Path, records_max: int = RECORDS_MAX) -> None:
        assert records_max >= 1, "room for one process"
        self._folder, self._records_max = folder, records_max
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def beat(self, beat: Beat) -> None:
        """Replace the process's record; records a day older than this one, and the oldest above the bound, go.

        Not synced: after a power cut there is no process to speak of. Raises ValueError for a name that is no file name, `DiskFull`.
        """
        data = beat_bytes(beat)
        write_file(self._path(beat), data, durable=False)
        for other in outlived(self.read(), beat, self._records_max):
            self._path(other).unlink(missing_ok=True)

    def read(self) -> list[Beat]:
        """Every record, by process name and pid; an unreadable one is left out."""
        return in_order(_parsed(path) for path in self._folder.glob("*.json"))

    def alive(self, now_ms: int, *, within_ms: int) -> list[Beat]:
        """Records not older than `within_ms`."""
        return lately(self.read(), now_ms, within_ms=within_ms)

    def forget(self, beat: Beat) -> None:
        """Remove the process's record: the last act of a clean end."""
        self._path(beat).unlink(missing_ok=True)

    def _path(self, beat: Beat) -> Path:
        return self._folder / f"{key_of(beat)}.json"


def key_of(beat: Beat) -> str:
    """Whose record it is."""
    return f"{beat.process}.{beat.pid}"


def beat_bytes(beat: Beat) -> bytes:
    """The record as JSON. Raises ValueError for a process name that is no file name."""
    if not _NAME.fullmatch(beat.process):
        raise ValueError(f"process name {beat.process!r}: letters, digits, '_' and '-', at most 64")
    return json.dumps({name: value for name, value in asdict(beat).items() if value is not None}).encode()


def beat_in(key: str, data: bytes) -> Beat | None:
    """The record of this key; None when it cannot be read.

    The key says whose record it is: one that says otherwise inside would make `beat` remove another's.
    """
    try:
        beat = Beat(**json.loads(data))
    except (ValueError, TypeError):
        return None
    return beat if key == key_of(beat) and isinstance(beat.at_ms, int) else None


def in_order(beats: Iterable[Beat | None]) -> list[Beat]:
    """Those that could be read, by process name and pid."""
    return sorted((beat for beat in beats if beat is not None), key=lambda beat: (beat.process, beat.pid))


def lately(beats: Iterable[Beat], now_ms: int, *, within_ms: int) -> list[Beat]:
    """Those not older than `within_ms`."""
    return [beat for beat in beats if beat.at_ms >= now_ms - within_ms]


def outlived(beats: Iterable[Beat], newest: Beat, records_max: int) -> list[Beat]:
    """The records that go: a day older than `newest`, and the oldest above the bound."""
    others = sorted((beat for beat in beats if key_of(beat) != key_of(newest)), key=lambda beat: beat.at_ms)
    surplus = max(0, len(others) + 1 - records_max)
    return [other for position, other in enumerate(others) if position < surplus or other.at_ms < newest.at_ms - KEPT_MS]


def _parsed(path: Path) -> Beat | None:
    try:
        return beat_in(path.name.removesuffix(".json"), path.read_bytes())
    except FileNotFoundError:
        return None
