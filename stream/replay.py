"""Replay: the same records into an empty state, and a digest that tells whether two states are one.

state = replay(archive, log, shape); assert digest(state, 0) == digest(live, 0)
"""

import itertools
from collections.abc import Iterator
from typing import Final

import xxhash

from storage.archive import Archive
from storage.log import Log
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import COUNTS, DIGESTED, HISTORIES, SEEN, Gap, State
from storage.state_memory import MemoryState
from stream.archiving import from_archive
from stream.ingest import EVENTS, Ingest
from stream.shape import Shape
from stream.wire import Decoded, decode

FROM_EVENTS: Final = (HISTORIES, SEEN, COUNTS)
"""What only the topic `events` shapes, partition by partition; neighbours come from `edges` in a cluster."""


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
    """Everything that was appended, in order: the archive, then what the log holds beyond it, numbered below `below`.

    Raises `Gap` at once when there are offsets that neither holds.
    """
    partitions = log.topic(EVENTS).partitions
    check_archive(archive, log, partitions)
    # A roll has a file for each partition; a crash may have come between two: the archive counts up to the first that is missing.
    missing = (log.number_of(EVENTS, p, archive.published(p)) for p in range(partitions))
    number = min([*missing, *([below] if below is not None else [])])
    return itertools.chain(map(from_archive, archive.scan(below=number)), _logged(log, number, below, records_max=records_max))


def check_archive(archive: Archive, log: Log, partitions: int) -> None:
    """Raise `Gap` unless the log goes on where the archive's files end, in each partition."""
    for partition in range(partitions):
        archived, first, end = archive.published(partition), log.first_offset(EVENTS, partition), log.end_offset(EVENTS, partition)
        if not first <= archived <= end:
            raise Gap(
                f"the archive of partition {partition} ends at offset {archived}, the log holds {first}..{end}: "
                "restore the archive folder and the log that belong together, or accept the loss on record (freshet gap accept)"
            )


def _logged(log: LmdbLog, number: int, below: int | None, *, records_max: int) -> Iterator[Decoded]:
    while records := log.read_ordered(EVENTS, number, records_max=records_max):
        if records[0].number != number:
            raise Gap(f"the log forgot what came from append {number} on while it was read: try again")
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
