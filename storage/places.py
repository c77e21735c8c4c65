"""Places: where named files lie, each of them whole or not there: a folder, or any address that pyarrow.fs knows.

Not a store: it knows no format, and its names are flat. What a shared store of a cluster keeps as files goes through here.

    place = place_of("s3://bucket/freshet/archive"); place.write("a.parquet", data); place.names()
"""

import re
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, SubTreeFileSystem

from storage.files import SUFFIX, sweep, write_file

_PUT_IS_ATOMIC: Final = frozenset({"s3", "gcs", "abfs"})
"""File systems that show an object when it is complete, and then at once; on all others a file is renamed into place."""
_BEFORE_THE_HOST: Final = re.compile(r"//.*@", re.DOTALL)


class Place(Protocol):
    """Names are flat and do not begin with a dot. What is not reached is an OSError; nothing is tried again here."""

    def prepare(self) -> None:
        """What a writer does first: make the folder, where there are folders."""

    def path(self, name: str) -> Path:
        """Where the file lies, for messages; in a folder also for opening it."""

    def names(self) -> list[str]:
        """What is there, sorted; nothing where there is no folder yet."""

    def has(self, name: str) -> bool:
        """Whether it is there."""

    def read(self, name: str) -> bytes:
        """All of a file. Raises FileNotFoundError."""

    def write(self, name: str, data: bytes) -> None:
        """Replace the file's content at once. An error leaves what was there."""

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""


class LocalPlace:
    """A folder. Written files survive a power cut; a full disk is `files.DiskFull`.

    `shared`: other machines write here too, so that a process id does not tell whose half-written file lies aside, and none is
    swept: a killed writer then leaves one hidden file.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder, self._shared = folder, shared

    def prepare(self) -> None:
        """Make the folder, and remove what dead writers of this machine left aside."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._shared:
            sweep(self._folder)

    def path(self, name: str) -> Path:
        """The file's path."""
        _check(name)
        return self._folder / name

    def names(self) -> list[str]:
        """What is there, sorted."""
        try:
            return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return []

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return self.path(name).exists()

    def read(self, name: str) -> bytes:
        """All of a file."""
        return self.path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Written aside, synced, renamed."""
        write_file(self.path(name), data)

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""
        self.path(name).unlink(missing_ok=True)


class FsPlace:
    """`base` (no slash at its end needed) in a pyarrow file system; "" is its root. Durable as far as the file system is.

    On an object store a file is one put. Elsewhere it is written to a hidden name and renamed; a killed writer leaves that one.
    One writer per name at a time.
    """

    def __init__(self, filesystem: FileSystem, base: str) -> None:
        self._filesystem, self._base = filesystem, base.rstrip("/")
        beneath = filesystem
        while isinstance(beneath, SubTreeFileSystem):
            beneath = beneath.base_fs
        self._put_is_atomic = beneath.type_name in _PUT_IS_ATOMIC

    def prepare(self) -> None:
        """Make the folder, where there are folders; a bucket must exist."""
        if self._base and not self._put_is_atomic:
            self._filesystem.create_dir(self._base, recursive=True)

    def path(self, name: str) -> Path:
        """Where it lies within the file system: bucket or folder first."""
        return Path(self._at(name))

    def names(self) -> list[str]:
        """What is there, sorted."""
        found = self._filesystem.get_file_info(FileSelector(self._base, allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.startswith("."))

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return bool(self._filesystem.get_file_info(self._at(name)).type != FileType.NotFound)

    def read(self, name: str) -> bytes:
        """All of a file."""
        # Without `compression` a name ending in .gz would be unpacked.
        with self._filesystem.open_input_stream(self._at(name), compression=None) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """One put, or written aside and renamed."""
        if self._put_is_atomic:
            self._put(self._at(name), data)
            return
        aside = self._joined(f".{_check(name)}{SUFFIX}")
        try:
            self._put(aside, data)
            self._filesystem.move(aside, self._at(name))
        except OSError:
            self._remove(aside)
            raise

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""
        self._remove(self._at(name))

    def _put(self, path: str, data: bytes) -> None:
        with self._filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)

    def _remove(self, path: str) -> None:
        try:
            self._filesystem.delete_file(path)
        except FileNotFoundError:
            return

    def _at(self, name: str) -> str:
        return self._joined(_check(name))

    def _joined(self, name: str) -> str:
        return f"{self._base}/{name}" if self._base else name


def place_of(address: str) -> Place:
    """A path or file:// is a folder that other machines may write too; anything else is what pyarrow.fs makes of the address.

    Raises ValueError for an address that it cannot use, without the credentials and options the address may carry.
    """
    if "://" not in address:
        return LocalPlace(Path(address), shared=True)
    try:
        filesystem, base = FileSystem.from_uri(address)
    except (pa.ArrowException, OSError, ValueError) as error:
        shown = _BEFORE_THE_HOST.sub("//", address).partition("?")[0]
        reason = f" ({error})" if shown == address else ""
        raise ValueError(
            f"{shown} is no place that pyarrow.fs can open{reason}: give a folder, file:///folder, s3://bucket/folder, gs://… or abfs://…"
        ) from None  # the error's own text may hold the address with its credentials
    return LocalPlace(Path(base), shared=True) if isinstance(filesystem, LocalFileSystem) else FsPlace(filesystem, base)


def _check(name: str) -> str:
    assert name and "/" not in name and not name.startswith("."), f"{name!r} is not a flat name"
    return name
