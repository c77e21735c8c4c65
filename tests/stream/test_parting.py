"""What is reduced together and parted is, of each partition, what would have come of it alone."""

import random
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from storage.log import JSON, Record
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import NAMES
from storage.state_memory import MemoryState
from stream.edges import EDGES
from stream.events import Event
from stream.ingest import EVENTS, Ingest, Prepared
from stream.parting import parted
from stream.routing import partition_of
from stream.wire import decode, encode_event
from tests.stream.event_logs import APPEND_MS, THREE, expected, fill, make_messages

FROM_EVENTS = ("histories", "seen", "counts")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    opened = LmdbLog(tmp_path, partitions=3)
    yield opened
    opened.close()


def ingest_of(log: LmdbLog, state: MemoryState) -> Ingest:
    made = Ingest(state, log, THREE, names=Names(state), edges_apart=True)
    made.claim()
    return made


def written(prepared: Prepared, *, names: bool = True) -> dict[tuple[str, int, int], bytes | None]:
    """By table, partition and id."""
    return {
        (write.table, write.partition, key): None if value is None else bytes(value)
        for write in prepared.writes
        if names or write.table != NAMES
        for key, value in zip(write.ids.tolist(), write.values, strict=True)
    }


def assert_same(part: Prepared, alone: Prepared) -> None:
    assert written(part, names=False) == written(alone, names=False) and part.letters == alone.letters
    columns = alone.hashed.columns
    held = {*columns.users.tolist(), *columns.items.tolist(), *columns.collections.tolist(), *columns.sources.tolist()}
    named = {where: name for where, name in written(alone).items() if where[0] == NAMES and where[2] in held}
    assert named.items() <= written(part).items(), "the names of what it writes are with it"
    assert {node for _, names in part.hashed.fresh for node in names.values()} >= {key for _, _, key in named}
    for one, other in ((part.edges, alone.edges), (part.hashed.columns, alone.hashed.columns)):
        assert all(np.array_equal(a, b) for a, b in zip(astuple(one), astuple(other), strict=True))
    for name in ("applied", "rows", "items", "counts", "counted_in"):
        assert np.array_equal(getattr(part, name), getattr(alone, name)), name
    assert np.array_equal(part.hashed.partitions, alone.hashed.partitions)
    assert (part.decoded.records, part.decoded.bad) == (alone.decoded.records, alone.decoded.bad)
    assert repr(part.decoded.events.to_pylist()) == repr(alone.decoded.events.to_pylist()), "also where a value is no number"
    assert np.array_equal(part.decoded.record, alone.decoded.record) and np.array_equal(part.decoded.index, alone.decoded.index)


@pytest.mark.parametrize("seed", range(3))
def test_each_part_is_what_its_partition_gives_alone_and_all_come_to_what_the_oracle_says(log: LmdbLog, seed: int) -> None:
    made = make_messages(random.Random(seed), THREE, count=300)
    oracle = expected(THREE, made, fill(log, made))
    state = MemoryState()
    ingest = ingest_of(log, state)
    ends = [log.end_offset(EVENTS, partition) for partition in range(3)]
    for begin in range(0, max(ends), 7):
        found = [[r for r in log.read(EVENTS, partition, begin) if r.offset < begin + 7] for partition in range(3)]
        parts = dict(parted(ingest.prepare(decode([record for records in found for record in records]))))
        assert list(parts) == [partition for partition in range(3) if found[partition]]
        alone = {partition: ingest.prepare(decode(found[partition])) for partition in parts}
        assert {key for part in parts.values() for key in written(part)} == {key for part in alone.values() for key in written(part)}
        ingest.publish(list(parts.values()), now_ms=APPEND_MS)
        for partition, part in parts.items():
            assert_same(part, alone[partition])
            ingest.commit(part)
    assert state.watermarks(EVENTS) == dict(enumerate(ends)) and sum(log.end_offset(EDGES, partition) for partition in range(3)) > 0
    for partition in range(3):
        assert ingest.tallies[partition].accepted == oracle.accepted[partition]
        for name in FROM_EVENTS:
            assert dict(state.scan(name, partition)) == oracle.blobs(name, partition)


def test_a_name_is_learned_only_with_the_part_that_writes_it(log: LmdbLog) -> None:
    users = {partition_of(name, 3): name for name in map("user {}".format, range(20))}
    events = {partition: Event(user_id=users[partition], action="view", item_id=f"item {partition}", ts_ms=1) for partition in (0, 1)}
    records = [Record(n, partition, 0, APPEND_MS, JSON, encode_event(event)) for n, (partition, event) in enumerate(events.items())]
    state = MemoryState()
    ingest = ingest_of(log, state)
    parts = dict(parted(ingest.prepare(decode(records))))
    ingest.commit(parts[0])
    again = ingest.prepare(decode(records[1:]))
    assert written(again) == written(parts[1]) and sum(key[0] == NAMES for key in written(again)) == 2, "they are still to be written"


def test_nothing_has_no_parts(log: LmdbLog) -> None:
    assert list(parted(ingest_of(log, MemoryState()).prepare(decode([])))) == []
