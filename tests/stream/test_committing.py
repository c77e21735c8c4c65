"""Batches on their way into the state: side by side over partitions, one after the other within one, none behind a hole."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.services import wait_until
from storage.log import Record
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state_memory import MemoryState
from stream import committing
from stream.committing import Committing, Reduced
from stream.edges import EDGES
from stream.ingest import EVENTS, Applied, Ingest, no_fault
from stream.wire import decode
from tests.stream.event_logs import APPEND_MS, THREE, expected, fill, make_messages

SOON_S = 20.0
FROM_EVENTS = ("histories", "seen", "counts")


class Table:
    """A log of three partitions, a state, and what was told on the way."""

    def __init__(self, folder: Path, fault: Callable[[str], None] = no_fault) -> None:
        self.log, self.state = LmdbLog(folder, partitions=3), MemoryState()
        self.ingest = Ingest(self.state, self.log, THREE, names=Names(self.state), edges_apart=True, fault=fault)
        self.ends: list[tuple[int, int]] = []
        self.refusals: list[int] = []
        self.committing = Committing(
            self.ingest, on_commit=self._committed, on_refusal=lambda partition, _: self.refusals.append(partition)
        )
        made = make_messages(random.Random(2), THREE, count=300)
        self.oracle = expected(THREE, made, fill(self.log, made))
        self.ingest.claim()

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.committing.close()
        self.log.close()

    def _committed(self, partition: int, applied: Applied, end: int) -> None:
        self.ends.append((partition, end))

    def submit(self, partition: int, begin: int, end: int, *, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """As the worker does; whether the partition was settled. `meanwhile`: between reducing and sending."""
        if not self.committing.settle(partition):
            return False
        prepared = self.ingest.prepare(decode(self.records(partition, begin, end)))
        meanwhile()
        self.committing.submit([Reduced(partition, prepared, end)], now_ms=APPEND_MS)
        return True

    def records(self, partition: int, begin: int, end: int) -> list[Record]:
        return [record for record in self.log.read(EVENTS, partition, begin) if record.offset < end]

    def edges(self) -> int:
        """Messages sent."""
        return sum(self.log.end_offset(EDGES, partition) for partition in range(3))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with Table(tmp_path) as made:
        yield made


def test_what_goes_side_by_side_comes_to_what_the_oracle_says(table: Table) -> None:
    ends = [table.log.end_offset(EVENTS, partition) for partition in range(3)]
    for begin in range(0, max(ends), 10):
        for partition, end in enumerate(ends):
            assert begin >= end or table.submit(partition, begin, min(begin + 10, end))
    applied = table.committing.collect(wait=True)
    assert sum(one.events for one in applied) == sum(table.oracle.accepted.values())
    assert table.state.watermarks(EVENTS) == dict(enumerate(ends))
    assert [end for partition, end in table.ends if partition == 0] == [*range(10, ends[0], 10), ends[0]]
    for partition in range(3):
        for name in FROM_EVENTS:
            assert dict(table.state.scan(name, partition)) == table.oracle.blobs(name, partition)
    assert table.committing.collect(wait=True) == [], "each is told once"


def test_after_a_refusal_nothing_of_the_partition_is_sent_until_it_is_claimed_again(table: Table) -> None:
    assert table.submit(0, 0, 10)
    assert table.submit(1, 0, 10, meanwhile=lambda: table.state.claim(EVENTS, 1, table.log.topic(EVENTS).id))
    assert not table.submit(1, 10, 20) and table.refusals == [1]
    assert table.submit(0, 10, 20), "another partition goes on"
    table.committing.collect(wait=True)
    assert table.state.watermarks(EVENTS) == {0: 20, 1: 0, 2: 0}
    sent = table.edges()
    assert table.ingest.claim_partition(1) == 0
    table.committing.claimed(1)
    assert table.submit(1, 0, 10)
    table.committing.collect(wait=True)
    assert (table.state.watermarks(EVENTS)[1], table.refusals) == (10, [1])
    assert table.edges() > sent, "they are sent again, and known by their place"


class Gate:
    """A fault that notes the points it meets, and holds the first one until it is opened."""

    def __init__(self) -> None:
        self.met: list[str] = []
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self, point: str) -> None:
        self.met.append(point)
        self.reached.set()
        assert self._open.wait(SOON_S)

    def open(self) -> None:
        self._open.set()


def submit_behind(table: Table, gate: Gate) -> None:
    """Partition 0's batch is on its way, those of 1 and 2 wait behind it."""
    assert table.submit(0, 0, 10)
    assert gate.reached.wait(SOON_S)
    assert table.submit(1, 0, 10) and table.submit(2, 0, 10)


PUBLISHED, COMMITTED = ["before edges", "after edges"], ["before commit", "after commit"]


def test_what_waits_together_is_acknowledged_together_and_committed_each_by_itself(tmp_path: Path) -> None:
    gate = Gate()
    with Table(tmp_path, gate) as table:
        submit_behind(table, gate)
        gate.open()
        applied = table.committing.collect(wait=True)
        met = [point for point in gate.met if "dead letters" not in point]
        assert met == [*PUBLISHED, *COMMITTED, *PUBLISHED, *COMMITTED]
        assert [one.decoded.records[0].partition for one in applied] == [0, 1, 2]
        assert table.state.watermarks(EVENTS) == {0: 10, 1: 10, 2: 10}


def test_a_refusal_is_one_partitions_own_also_when_it_went_with_others(tmp_path: Path) -> None:
    gate = Gate()
    with Table(tmp_path, gate) as table:
        submit_behind(table, gate)
        table.state.claim(EVENTS, 1, table.log.topic(EVENTS).id)
        gate.open()
        assert len(table.committing.collect(wait=True)) == 2
        assert (table.refusals, [partition for partition, _ in table.ends]) == ([1], [0, 2])
        assert table.state.watermarks(EVENTS) == {0: 10, 1: 0, 2: 10}
        assert not table.submit(1, 10, 20) and table.submit(2, 10, 20)


def test_large_batches_go_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "TOGETHER_MAX", 1)
    gate = Gate()
    with Table(tmp_path, gate) as table:
        submit_behind(table, gate)
        gate.open()
        table.committing.collect(wait=True)
        assert gate.met.count("before edges") == 3 and table.state.watermarks(EVENTS) == {0: 10, 1: 10, 2: 10}


def test_an_error_is_raised_where_it_is_collected_and_nothing_more_is_sent(tmp_path: Path) -> None:
    gate = Gate()

    def fault(point: str) -> None:
        gate(point)
        if point == "before edges":
            raise OSError("no acknowledgement")

    with Table(tmp_path, fault) as table:
        submit_behind(table, gate)
        gate.open()
        with pytest.raises(OSError, match="no acknowledgement"):
            table.committing.collect(wait=True)
        for _ in (1, 2):
            with pytest.raises(RuntimeError, match="nothing is sent after an error"):
                table.committing.collect(wait=True)
        assert (table.edges(), table.ends) == (0, [])


def test_a_stop_drops_what_has_not_begun(tmp_path: Path) -> None:
    gate = Gate()
    with Table(tmp_path, gate) as table:
        submit_behind(table, gate)
        assert table.committing.collect(wait=False) == []
        stop = threading.Thread(target=table.committing.close)
        stop.start()
        wait_until(lambda: table.committing._ended, seconds=SOON_S)
        gate.open()
        stop.join()
        assert [partition for partition, _ in table.ends] == [0]
        assert table.state.watermarks(EVENTS) == {0: 10, 1: 0, 2: 0}


def test_who_submits_waits_while_too_much_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with Table(tmp_path, gate) as table:
        monkeypatch.setattr(committing, "UNDER_WAY_MAX", sum(len(decode(table.records(partition, 0, 10))) for partition in (0, 1)))
        submitting = threading.Thread(target=submit_behind, args=(table, gate))
        submitting.start()
        wait_until(lambda: list(table.committing._under_way) == [1], seconds=SOON_S)  # the first is being waited for
        assert submitting.is_alive()
        gate.open()
        submitting.join()
        table.committing.collect(wait=True)
        assert table.state.watermarks(EVENTS) == {0: 10, 1: 10, 2: 10}


def test_a_partition_that_is_not_settled_takes_no_second_batch(table: Table) -> None:
    assert table.submit(0, 0, 10)
    with pytest.raises(AssertionError, match="partition 0 is not settled"):
        table.committing.submit([Reduced(0, table.ingest.prepare(decode([])), 10)], now_ms=APPEND_MS)
