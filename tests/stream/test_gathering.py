"""Edges that wait and are applied together beside the events: once, in order, whoever claims what meanwhile."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.services import wait_until
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import NEIGHBOURS, Fenced
from storage.state_memory import MemoryState
from stream import gathering
from stream.connecting import Connecting
from stream.edges import EDGES
from stream.gathering import EVERY_MS, UNDER_WAY_MS, Gathering
from stream.ingest import EVENTS, Ingest, no_fault
from stream.replay_shared import replay_edges
from stream.wire import decode
from tests.stream.event_logs import APPEND_MS, THREE, fill, make_messages

SOON_S = 20.0
PARTITIONS = range(THREE.partitions)


class Table:
    """A log whose edges wait to be applied to an empty state."""

    def __init__(self, folder: Path, fault: Callable[[str], None] = no_fault) -> None:
        self.log, self.state = LmdbLog(folder, partitions=THREE.partitions), MemoryState()
        self._publish()
        self.refusals: list[tuple[int, Exception]] = []
        self.gathering = Gathering(
            Connecting(self.state, self.log, THREE, fault=fault), on_refusal=lambda *refused: self.refusals.append(refused)
        )
        self.ends = {partition: self.log.end_offset(EDGES, partition) for partition in PARTITIONS}
        self.now_ms, self.edges = 0, 0

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.gathering.close()
        self.log.close()

    def _publish(self) -> None:
        """Edges of a few hundred events, in many messages."""
        fill(self.log, make_messages(random.Random(5), THREE, count=300))
        source = MemoryState()
        ingest = Ingest(source, self.log, THREE, names=Names(source), edges_apart=True)
        for partition, offset in ingest.claim().items():
            while records := self.log.read(EVENTS, partition, offset, records_max=7):
                ingest.apply_decoded(decode(records), now_ms=APPEND_MS)
                offset = records[-1].offset + 1

    def add(self, partition: int, begin: int, end: int) -> None:
        records = [record for record in self.log.read(EDGES, partition, begin) if record.offset < end]
        self.gathering.add(partition, records, end, now_ms=self.now_ms)

    def step(self, after_ms: int = 0) -> int:
        """One more, so much later; how many edges there were in all."""
        self.now_ms += after_ms
        self.edges += self.gathering.step(now_ms=self.now_ms)
        return self.edges

    def settle(self) -> None:
        wait_until(lambda: self.step(EVERY_MS) >= 0 and self.gathering.idle, seconds=SOON_S, every=0.001)

    def lists(self, state: MemoryState) -> list[dict[int, bytes]]:
        return [dict(state.scan(NEIGHBOURS, partition)) for partition in PARTITIONS]

    def replayed(self) -> tuple[list[dict[int, bytes]], int]:
        """What a replay says of the lists, and how many edges it counted."""
        again = MemoryState()
        edges = replay_edges(self.log, again, THREE, self.ends)
        return self.lists(again), edges


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with Table(tmp_path) as made:
        yield made


def test_edges_of_several_partitions_are_applied_together_and_come_to_a_replay(table: Table) -> None:
    for partition in PARTITIONS:
        assert table.gathering.claim(partition) == 0
    for begin in range(0, max(table.ends.values()), 4):
        for partition in PARTITIONS:
            table.add(partition, begin, min(begin + 4, table.ends[partition]))
        table.step(EVERY_MS // 2)
    table.settle()
    assert (table.lists(table.state), table.edges) == table.replayed()
    assert table.edges > 0 and not table.refusals
    assert table.state.watermarks(EDGES) == table.ends


def test_edges_wait_to_be_applied_together_but_not_for_long(table: Table) -> None:
    table.gathering.claim(0)
    table.add(0, 0, 2)
    assert table.step(EVERY_MS - 1) == 0 and not table.gathering.idle
    assert table.state.watermarks(EDGES) == {0: 0}
    table.step(1)
    wait_until(lambda: table.step() > 0, seconds=SOON_S, every=0.001)
    assert table.state.watermarks(EDGES) == {0: 2} and table.gathering.idle


def test_a_clock_that_is_set_back_makes_nothing_wait(table: Table) -> None:
    table.gathering.claim(0)
    table.now_ms = 1_000_000
    table.add(0, 0, 2)
    assert table.gathering.patience_ms(table.now_ms) == EVERY_MS
    table.now_ms = 0
    assert table.gathering.patience_ms(0) == 0
    table.step()
    assert table.gathering.patience_ms(0) == UNDER_WAY_MS
    wait_until(lambda: table.step() > 0, seconds=SOON_S, every=0.001)
    assert table.state.watermarks(EDGES) == {0: 2}


def test_so_many_records_do_not_wait_and_no_more_bytes_go_together_than_are_allowed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "RECORDS_MAX", 3)
    monkeypatch.setattr(gathering, "TOGETHER_BYTES", 1)
    for partition in PARTITIONS:
        table.gathering.claim(partition)
    table.add(2, 0, 2)
    table.now_ms += 1
    table.add(0, 0, 3)
    table.step()
    wait_until(lambda: table.step() > 0, seconds=SOON_S, every=0.001)
    assert table.state.watermarks(EDGES) == {0: 0, 1: 0, 2: 2}, "the one that has waited longest went first, and alone"
    table.settle()
    assert table.state.watermarks(EDGES) == {0: 3, 1: 0, 2: 2}


def test_the_reader_waits_when_too_much_waits(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WAITING_BYTES_MAX", 1)
    monkeypatch.setattr(gathering, "TOGETHER_BYTES", 1)
    for partition in PARTITIONS:
        table.gathering.claim(partition)
        table.add(partition, 0, 2)
    assert table.step() > 0, "long before they were due"
    table.settle()
    assert table.state.watermarks(EDGES) == {0: 2, 1: 2, 2: 2}


def test_a_refused_partition_is_told_and_read_again_and_the_others_go_on(table: Table) -> None:
    for partition in PARTITIONS:
        table.gathering.claim(partition)
        table.add(partition, 0, 2)
    table.state.claim(EDGES, 1, table.log.topic(EDGES).id)
    table.settle()
    ((refused, why),) = table.refusals
    assert refused == 1 and isinstance(why, Fenced)
    assert table.state.watermarks(EDGES) == {0: 2, 1: 0, 2: 2}
    assert table.gathering.claim(1) == 0
    for partition in PARTITIONS:
        table.add(partition, 0 if partition == 1 else 2, table.ends[partition])
    table.settle()
    assert (table.lists(table.state), table.edges) == table.replayed()


def test_a_claim_waits_for_what_is_under_way_and_drops_what_waits(tmp_path: Path) -> None:
    reached, opened = threading.Event(), threading.Event()

    def fault(point: str) -> None:
        reached.set()
        assert opened.wait(SOON_S)

    with Table(tmp_path, fault) as table:
        table.gathering.claim(0)
        table.add(0, 0, 2)
        table.step(EVERY_MS)
        assert reached.wait(SOON_S)
        table.add(0, 2, 4)
        assert table.step(EVERY_MS) == 0, "one after the other"
        opener = threading.Timer(0.05, opened.set)
        opener.start()
        assert table.gathering.claim(0) == 2
        assert table.gathering.idle
        assert table.step() > 0


def test_what_goes_wrong_is_raised(tmp_path: Path) -> None:
    def fault(point: str) -> None:
        raise OSError("no way")

    with Table(tmp_path, fault) as table:
        table.gathering.claim(0)
        table.add(0, 0, 2)
        with pytest.raises(OSError, match="no way"):
            wait_until(lambda: table.step(EVERY_MS) > 0, seconds=SOON_S, every=0.001)
