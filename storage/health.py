"""Heartbeats: each process says, in one small file, that it lives, what it has loaded and how far it has read.

Not a log and not a lock: the last word of each process, lost without harm. The console reads all of them; a promotion
waits for those that serve; a collection named by one is not dropped.

    health = Health(root / "health")
    health.beat(Beat("serving-0", os.getpid(), at_ms=now_ms, version="g1-h3", collection="items-g1", watermark=8123))
    alive = health.alive(now_ms, within_ms=10_000)
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from storage.files import sweep, write_file

RECORDS_MAX: Final = 256
KEPT_MS: Final = 86_400_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Beat:
    """One process's last word. `watermark`: the number of the last event applied or learned; `at_ms`: when this was said."""

    process: str
    pid: int
    at_ms: int
    version: str | None = None
    collection: str | None = None
    watermark: int | None = None


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
        if not _NAME.fullmatch(beat.process):
            raise ValueError(f"process name {beat.process!r}: letters, digits, '_' and '-', at most 64")
        write_file(self._path(beat), json.dumps(asdict(beat)).encode(), durable=False)
        others = sorted((other for other in self.read() if self._path(other) != self._path(beat)), key=lambda other: other.at_ms)
        surplus = max(0, len(others) + 1 - self._records_max)
        for position, other in enumerate(others):
            if position < surplus or other.at_ms < beat.at_ms - KEPT_MS:
                self._path(other).unlink(missing_ok=True)

    def read(self) -> list[Beat]:
        """Every record, by process name and pid; an unreadable one is left out."""
        found = [beat for path in self._folder.glob("*.json") if (beat := _parsed(path)) is not None]
        return sorted(found, key=lambda beat: (beat.process, beat.pid))

    def alive(self, now_ms: int, *, within_ms: int) -> list[Beat]:
        """Records not older than `within_ms`."""
        return [beat for beat in self.read() if beat.at_ms >= now_ms - within_ms]

    def forget(self, beat: Beat) -> None:
        """Remove the process's record: the last act of a clean end."""
        self._path(beat).unlink(missing_ok=True)

    def _path(self, beat: Beat) -> Path:
        return self._folder / f"{beat.process}.{beat.pid}.json"


def _parsed(path: Path) -> Beat | None:
    try:
        beat = Beat(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, FileNotFoundError):
        return None
    # The name says whose record it is: one that says otherwise inside would make `beat` remove another's file.
    return beat if path.name == f"{beat.process}.{beat.pid}.json" and isinstance(beat.at_ms, int) else None
