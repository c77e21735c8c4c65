"""`freshet doctor`: what freshet stands on, one finding each, and what to do about what is wrong.

for finding in examine(settings, url=None): print(finding.what, finding.fine, finding.found)
"""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from freshet.access import SERVER_FILE, HttpSite, Unreachable, server_url
from freshet.clock import now_ms
from freshet.engine import Engine, FolderBusy, locked_folder
from freshet.settings import Settings
from storage.archive import Archive, ArchiveDamaged
from storage.models import Damaged, Registry

FREE_BYTES_MIN: Final = 1 << 30
CLOCK_MIN_MS: Final = 1_700_000_000_000
LIBRARIES: Final = ("torch", "numpy", "lmdb", "pyarrow", "msgspec", "qdrant-edge-py", "fastapi", "numba")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what to do if it is not fine."""

    what: str
    fine: bool
    found: str
    do: str = ""


def examine(settings: Settings, url: str | None) -> Iterator[Finding]:
    """Every check, in the order a newcomer would meet the trouble. Changes nothing but opening the folder."""
    yield from machine(LIBRARIES)
    yield _folder(settings.data)
    yield free_space(settings.data)
    yield _state(settings, url)
    if settings.data.exists():
        yield _archive(settings.data)
        yield _models(settings.data)
    yield _port(settings)


def machine(libraries: Sequence[str]) -> Iterator[Finding]:
    """What this machine must have, in whichever form freshet runs."""
    yield _python()
    yield _libraries(libraries)
    yield _clock()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _libraries(libraries: Sequence[str]) -> Finding:
    missing = [name for name in libraries if not _version(name)]
    found = ", ".join(f"{name} {_version(name)}" for name in libraries if name not in missing)
    return Finding("libraries", not missing, found or "none", f"install {', '.join(missing)} (make test sets all up)")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _clock() -> Finding:
    now = now_ms()
    return Finding("clock", now > CLOCK_MIN_MS, f"{now} ms", "set the machine's clock: events from the future are refused")


def _folder(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    fine = place.is_dir() and os.access(place, os.W_OK)
    return Finding(
        "data folder", fine, str(folder) + ("" if folder.exists() else " (will be made)"), "choose a folder you may write (--data)"
    )


def free_space(folder: Path) -> Finding:
    """Of the disk that holds the folder, or will."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return Finding(
        "free space",
        free >= FREE_BYTES_MIN,
        f"{free / 1e9:.1f} GB",
        f"free at least {FREE_BYTES_MIN / 1e9:.0f} GB: appends stop when the disk is full",
    )


def _state(settings: Settings, url: str | None) -> Finding:
    if url or not settings.data.exists():
        return _server(settings, url) if url else Finding("state", True, "nothing there yet")
    try:
        with Engine(settings) as engine:
            tally = engine.tallies
            return shares(tally.accepted, tally.dead_letters, engine.lag)
    except FolderBusy:
        return _server(settings, None)
    except (RuntimeError, OSError) as error:
        return Finding("state", False, str(error), "see the message")


def _server(settings: Settings, url: str | None) -> Finding:
    try:
        with HttpSite(url or server_url(settings)) as site:
            status = site.status()
    except Unreachable as error:
        return Finding("server", False, str(error), "start it (freshet serve), or end the process that holds the folder")
    return shares(status["tallies"]["accepted"], status["tallies"]["dead_letters"], status["lag_records"])


def shares(accepted: int, dead: dict[str, int], lag: int) -> Finding:
    """What became of the input: a few are refused everywhere, many are a producer's mistake."""
    refused, misrouted = sum(dead.values()), dead.get("misrouted", 0)
    found = f"{accepted:,} accepted, {refused:,} dead letters, {misrouted:,} misrouted, lag {lag:,}"
    return Finding("state", refused <= max(10, accepted // 100), found, "over 1 % is refused; see the reasons with: freshet lag")


def _archive(folder: Path) -> Finding:
    def look() -> str:
        archive = Archive(folder / "archive", read_only=True)
        rows = sum(table.num_rows for table in archive.scan())
        return f"{rows:,} rows in {len(archive.parts()):,} files, all readable"

    return _tried("archive", look, (ArchiveDamaged, OSError), "restore the file the message names")


def _models(folder: Path) -> Finding:
    def look() -> str:
        registry = Registry(folder / "models")
        versions = [version.name for version in registry.versions()]
        for name in versions:
            registry.files(name)
        live = registry.live()
        return f"live: {live.version if live else 'none yet'}; {len(versions)} versions whole"

    return _tried("models", look, (Damaged, OSError), "roll back to a whole version, or remove the damaged one")


def _tried(what: str, look: Callable[[], str], wrong: tuple[type[Exception], ...], do: str) -> Finding:
    try:
        return Finding(what, True, look())
    except wrong as error:
        return Finding(what, False, str(error), do)


def _port(settings: Settings) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            taken = _serves(settings)
            return Finding(
                "port",
                taken,
                f"{settings.host}:{settings.port}: {error.strerror}" + (" (our server)" if taken else ""),
                "choose another (--port)",
            )
    return Finding("port", True, f"{settings.host}:{settings.port} is free")


def _serves(settings: Settings) -> bool:
    """Whether a server holds the folder now; one that was killed leaves its name behind."""
    if not (settings.data / SERVER_FILE).exists():
        return False
    try:
        with locked_folder(settings.data):
            return False
    except FolderBusy:
        return True
