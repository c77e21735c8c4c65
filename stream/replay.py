"""Replay: the same records into an empty state, and a digest that tells whether two states are one.

state = replay(archive, log, shape); assert digest(state, 0) == digest(live, 0)
"""

from collections.abc import Iterator

import xxhash

from storage.archive import Archive
from storage.log import Log
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import DIGESTED, State
from storage.state_memory import MemoryState
from stream.archiving import from_archive
from stream.ingest import EVENTS, Ingest
from stream.shape import Shape
from stream.wire import Decoded, decode


def digest(state: State, partition: int, tables: tuple[str, ...] = DIGESTED) -> str:
    """xxh3-128 over every (table, id, blob) of a partition, ascending by id: equal bytes, equal digest."""
    hasher = xxhash.xxh3_128()
    for table in tables:
        hasher.update(table.encode())
        for node, blob in state.scan(table, partition):
            hasher.update(node.to_bytes(8, "little") + len(blob).to_bytes(8, "little"))
            hasher.update(blob)
    return hasher.hexdigest()


def digests(state: State, partitions: int) -> str:
    """One digest of all partitions: theirs, in order, joined."""
    return "-".join(digest(state, partition) for partition in range(partitions))


def history(archive: Archive, log: LmdbLog, *, below: int | None = None, records_max: int = 4096) -> Iterator[Decoded]:
    """Everything that was appended, in order: the archive, then what the log holds beyond it, numbered below `below`."""
    number = 0
    for table in archive.scan(below=below):
        decoded = from_archive(table)
        number = decoded.records[-1].number + 1
        yield decoded
    while records := log.read_ordered(EVENTS, number, records_max=records_max):
        records = [r for r in records if below is None or r.number < below]
        if not records:
            return
        number = records[-1].number + 1
        yield decode(records)


def replay(source: Iterator[Decoded], log: Log, shape: Shape, *, state: State | None = None) -> State:
    """Apply everything to an empty state, in memory unless one is given. Dead letters are counted, not sent again."""
    target = state if state is not None else MemoryState()
    ingest = Ingest(target, log, shape, names=Names(target), replaying=True)
    ingest.claim()
    for decoded in source:
        ingest.apply_decoded(decoded, now_ms=0)
    return target
