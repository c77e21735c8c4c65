"""What a live version's weights have become by what was taken: a file of one server, or a record that all processes of a cluster share.

    kept = LearnedFile(data / "weights.json"); kept.write(Learned("g1-1", 20, blend.to_json())); kept.read()

Both raise msgspec.DecodeError for what is no such record.
"""

from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis

from storage.files import write_file


class Learned(msgspec.Struct):
    """Of which version, from how many questions, and the blend as JSON."""

    version: str
    cases: int
    blend: str


class LearnedStore(Protocol):
    """One record. `where` it is, for messages."""

    where: str

    def read(self) -> Learned | None:
        """None before the first."""

    def write(self, learned: Learned) -> None:
        """Replace it."""


class LearnedFile:
    """Raises OSError where the file can't be read or written."""

    def __init__(self, path: Path) -> None:
        self._path, self.where = path, str(path)

    def read(self) -> Learned | None:
        """None where there is no file."""
        return msgspec.json.decode(self._path.read_bytes(), type=Learned) if self._path.exists() else None

    def write(self, learned: Learned) -> None:
        """The whole file, or the one before stays. Not forced to the disk: what is lost is learned again."""
        write_file(self._path, msgspec.json.encode(learned), durable=False)


class LearnedRedis:
    """Of several processes that learn of one version, the record is of the one that has learned from most questions."""

    def __init__(self, client: "redis.Redis | redis.RedisCluster", prefix: str = "freshet") -> None:
        self._client: Any = client  # its types know text and bytes, but not which
        self._key = self.where = f"{prefix}:weights"

    def read(self) -> Learned | None:
        """None before the first."""
        held = self._client.get(self._key)
        return msgspec.json.decode(held, type=Learned) if held else None

    def write(self, learned: Learned) -> None:
        """Unless another has learned from more. Between the look and the write one may be lost: it is written again with its next."""
        try:
            held = self.read()
        except msgspec.DecodeError:
            held = None
        if held is None or held.version != learned.version or held.cases <= learned.cases:
            self._client.set(self._key, msgspec.json.encode(learned))
