"""What the latest commits changed: a short list a partition, written by the commit itself, for who keeps a copy in memory.

Information, not truth: it is bounded, and who falls behind it, or finds the numbers set back because Redis lost its last
second, is told so and loads everything again.

    feed = ChangeFeed(client, partitions=12); feed.skip(); ...load...; found = feed.read()
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import redis

from storage.arrays import U64s
from storage.ids import ITEM
from storage.slots import tags
from storage.state import COUNTS, NAMES, TALLIES, Advance, Write

ENTITIES: Final = "entities"
EVENTS: Final = "events"
READ_AT_ONCE: Final = 64


class _Note(msgspec.Struct, array_like=True):
    """Ids whose counts changed, of nodes that are new or have new content, the partition's tally, and likings."""

    counted: bytes = b""
    nodes: bytes = b""
    tally: bytes = b""
    likings: bytes = b""


@dataclass
class Changes:
    """Everything since the last read. `marks`: watermark by partition of events; `tallies`: the newest of each that changed.

    `likings` (N, 3): user, item and time in ms, a user's in their order; of some users where there were too many (`stream/likings.py`).
    """

    counted: U64s
    nodes: U64s
    likings: U64s = field(default_factory=lambda: np.empty((0, 3), np.uint64))
    marks: dict[int, int] = field(default_factory=dict)
    tallies: dict[int, bytes] = field(default_factory=dict)


def feed_key(prefix: str, tag: str, stream: str) -> str:
    """Where the notes of one partition of a stream lie: in its slot."""
    return f"{prefix}:{{{tag}}}:changes:{stream}"


def note_of(advance: Advance, writes: Sequence[Write]) -> bytes:
    """What a commit of events changes that others hold in memory; empty where it is none of their business."""
    if advance.claim.stream != EVENTS:
        return b""
    note = _Note(likings=advance.likings.tobytes())
    for write in writes:
        if write.table == COUNTS and write.partition == advance.claim.partition:
            note.counted += write.ids.tobytes()
        elif write.table == NAMES:
            items = [value is not None and value[0] == ITEM for value in write.values]
            note.nodes += write.ids[items].tobytes()
        elif write.table == TALLIES and write.partition == advance.claim.partition:
            note.tally = bytes(write.values[0] or b"")
    return msgspec.msgpack.encode(note)


def note_of_nodes(ids: U64s) -> bytes:
    """New content of nodes."""
    return msgspec.msgpack.encode(_Note(nodes=ids.tobytes()))


class Behind(RuntimeError):
    """The list no longer holds what came after the last read: load everything, after `skip`."""


class ChangeFeed:
    """One reader of all partitions. For one thread."""

    def __init__(self, client: "redis.Redis | redis.RedisCluster", *, partitions: int, prefix: str = "freshet") -> None:
        self._client: Any = client  # its types know text and bytes, but not which
        self._feeds = [
            (stream, partition, f"{prefix}:{{{tag}}}:stream:{stream}", feed_key(prefix, tag, stream))
            for stream in (EVENTS, ENTITIES)
            for partition, tag in enumerate(tags(partitions))
        ]
        self._read = dict.fromkeys((key for *_, key in self._feeds), 0)
        self._held = dict(self._read)

    def skip(self) -> None:
        """Go on behind what is there now: call it before loading, so that nothing falls in between."""
        self._read = self._numbers()

    def skip_likings(self) -> None:
        """Of what is there now no likings are told: call it after loading, for what was loaded may hold them, and twice is wrong."""
        self._held = self._numbers()

    def _numbers(self) -> dict[str, int]:
        """Of the last note of each list."""
        with self._client.pipeline(transaction=False) as pipe:
            for _, _, stream, _ in self._feeds:
                pipe.hget(stream, "s")
            return {key: int(number or 0) for (*_, key), number in zip(self._feeds, pipe.execute(), strict=True)}

    def read(self) -> Changes:
        """What came since, in one round trip. Raises `Behind`."""
        with self._client.pipeline(transaction=False) as pipe:
            for _, _, stream, key in self._feeds:
                pipe.hmget(stream, "w", "s")
                pipe.xrange(key, f"{self._read[key] + 1}-0", "+", count=READ_AT_ONCE)
            answers = pipe.execute()
        notes: list[_Note] = []
        likings: list[bytes] = []
        changes = Changes(np.empty(0, np.uint64), np.empty(0, np.uint64))
        for (stream, partition, _, key), (mark, number), entries in zip(self._feeds, answers[0::2], answers[1::2], strict=True):
            found = [(int(place.split(b"-")[0]), msgspec.msgpack.decode(fields[b"c"], type=_Note)) for place, fields in entries]
            last = self._read[key]
            missing = not found and int(number or 0) > last  # the list itself is gone
            if missing or int(number or 0) < last or [n for n, _ in found] != list(range(last + 1, last + 1 + len(found))):
                raise Behind(f"{key} stands at {int(number or 0)}, {last} were read, and not all between is there")
            self._read[key] = last + len(found)
            notes += [note for _, note in found]
            likings += [note.likings for n, note in found if n > self._held[key]]
            if stream == EVENTS:
                if int(number or 0) == self._read[key]:  # else the watermark is ahead of what was read
                    changes.marks[partition] = int(mark or 0)
                for _, note in found:
                    changes.tallies[partition] = note.tally
        changes.counted = _ids(note.counted for note in notes)
        changes.nodes = _ids(note.nodes for note in notes)
        changes.likings = np.frombuffer(b"".join(likings), dtype=np.uint64).reshape(-1, 3)
        return changes


def _ids(parts: Any) -> U64s:
    return np.unique(np.frombuffer(b"".join(parts), dtype=np.uint64))
