"""Durable files: written aside, synced, renamed, and the folder synced, so that a name shows either all of it or nothing.

Not a store: it knows no format. The registry, the heartbeats and the archive write through it. What a killed writer left
aside is removed by `sweep`, which spares what a living process of this machine is still writing.

    write_file(folder / "live.json", data)
    with aside(folder / "part-0.parquet") as temporary:
        pyarrow.parquet.write_table(table, temporary)
"""

import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUFFIX: Final = ".aside"
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_numbers = itertools.count()
_in_flight: set[Path] = set()


class DiskFull(OSError):
    """There is no room for `path`; what stood there before is untouched."""

    def __init__(self, path: Path, wanted_bytes: int | None = None) -> None:
        wanted = "" if wanted_bytes is None else f" ({wanted_bytes / 1e6:.0f} MB must be free)"
        free = free_bytes(path) / 1e6
        text = f"no room to write {path}: {free:.1f} MB free{wanted}; nothing stored was changed, free some space and try again"
        super().__init__(errno.ENOSPC, text)
        self.path = path


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user may still write on the disk that holds `path` (or its nearest existing parent)."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_free(path: Path, wanted_bytes: int) -> None:
    """Raise `DiskFull` unless so many bytes are free: for engines that do not survive a full disk."""
    if free_bytes(path) < wanted_bytes:
        raise DiskFull(path, wanted_bytes)


@contextmanager
def aside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder, and publish what was made there when the block ends.

    In order: 1. the block writes, 2. its files are synced, 3. renamed onto `path` (a file replaces a file; a folder needs
    the name to be free), 4. the parent folder is synced. An error before 3 leaves `path` as it was and nothing aside; an
    error in 4 leaves the new content, which a power cut may still take back. `durable=False` skips 2 and 4: whole after the
    death of a process, not of the machine. Raises `DiskFull`, or whatever the block raised.
    """
    with _told_when_full(path), _unswept(path) as temporary:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent, deep=False)


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the file's content at once; see `aside` for the order and the errors."""
    with aside(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Publish a new folder holding these files, all or nothing; an existing non-empty folder of that name is an OSError."""
    with aside(path) as temporary:
        temporary.mkdir()
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def append_line(path: Path, line: bytes) -> None:
    """Append one line and sync it. A failure cuts the file back to where it was; a kill can leave a torn last line."""
    assert b"\n" not in line, "one line, without its end"
    with _told_when_full(path):
        with path.open("ab") as file:
            size = file.tell()
            try:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise
        if size == 0:
            sync(path.parent, deep=False)


def sync(path: Path, *, deep: bool = True) -> None:
    """fsync a file, or a folder after everything in it."""
    if deep and path.is_dir():
        for child in path.iterdir():
            sync(child)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Take the name away at once, then the content; a kill in between leaves something aside for `sweep`."""
    with _told_when_full(path), _unswept(path) as temporary:
        path.replace(temporary)


def sweep(folder: Path) -> list[str]:
    """Remove what dead writers left aside in this folder; returns the names. Writers are told apart by process id, so all
    writers of a folder must share one machine's process ids."""
    swept = []
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        if path not in _in_flight and not _is_another_living_process(path.name):
            _erase(path)
            swept.append(path.name)
    return swept


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, then hold, an exclusive lock on this file: one holder among all processes and threads; a kill frees it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | None:
    """The same lock without waiting: an open descriptor (`os.close` frees the lock), or None when another holds it. The
    file then says which process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(path, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


@contextmanager
def _unswept(path: Path) -> Iterator[Path]:
    """A name beside `path` that `sweep` spares during the block; what is still under it afterwards is erased."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}{SUFFIX}")
    _in_flight.add(temporary)
    try:
        yield temporary
    finally:
        _erase(temporary)
        _in_flight.discard(temporary)


@contextmanager
def _told_when_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, DiskFull):
            raise DiskFull(path) from error
        raise


def _is_another_living_process(name: str) -> bool:
    parts = name.removesuffix(SUFFIX).rsplit(".", 2)
    if len(parts) < 3 or not parts[1].isdecimal() or int(parts[1]) == os.getpid():
        return False
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
