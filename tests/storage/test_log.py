"""The contract of the log, over its embedded form: offsets, numbers, order, bounds, readers beside the writer.

A new implementation is one line in `MAKERS`.
"""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.log import JSON, PACK, VALUE_BYTES_MAX, Entry, LogFull, Record
from storage.log_lmdb import SPARE_BYTES, LmdbLog

ROOT = Path(__file__).resolve().parents[2]
MAKERS: dict[str, Callable[[Path], LmdbLog]] = {"lmdb": lambda folder: LmdbLog(folder / "log", partitions=3, log_bytes_max=1 << 26)}


@pytest.fixture(params=MAKERS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LmdbLog]:
    with MAKERS[request.param](tmp_path) as log:
        yield log


def small(folder: Path, log_bytes_max: int = 1 << 20) -> LmdbLog:
    return LmdbLog(folder, log_bytes_max=log_bytes_max)


def test_what_is_appended_is_read_back_with_its_offset_number_and_time(log: LmdbLog) -> None:
    positions = log.append("events", [Entry(1, b"a"), Entry(0, b"", PACK), Entry(1, b"c" * 5000)], now_ms=77)
    assert [tuple(at) for at in positions] == [(1, 0, 0), (0, 0, 1), (1, 1, 2)]
    assert log.append("events", [Entry(1, b"d")], now_ms=-5)[0] == (1, 2, 3)
    assert log.read("events", 1, 0) == [
        Record(0, 1, 0, 77, JSON, b"a"), Record(2, 1, 1, 77, JSON, b"c" * 5000), Record(3, 1, 2, -5, JSON, b"d"),
    ]  # fmt: skip
    assert log.read("events", 0, 0) == [Record(1, 0, 0, 77, PACK, b"")]
    assert log.read("events", 2, 0) == [] and log.append("events", [], now_ms=1) == []


def test_a_read_begins_at_its_offset_inclusive_and_is_bounded(log: LmdbLog) -> None:
    log.append("events", [Entry(n % 2, b"%d" % n) for n in range(20)], now_ms=1)
    assert [record.value for record in log.read("events", 1, 3, records_max=2)] == [b"7", b"9"]
    assert [record.offset for record in log.read("events", 0, 8)] == [8, 9]
    assert log.read("events", 0, 10) == [] and log.read("nothing", 0, 0) == []
    assert [record.number for record in log.read_ordered("events", 5, records_max=4)] == [5, 6, 7, 8]
    assert [record.number for record in log.read_ordered("events", 17)] == [17, 18, 19]
    assert log.read_ordered("events", 20) == [] and log.read_ordered("nothing", 0) == []


def test_an_ordered_read_is_bounded_in_bytes_and_always_moves_on(log: LmdbLog) -> None:
    log.append("events", [Entry(0, b"x" * 1000)] * 10, now_ms=1)
    assert len(log.read_ordered("events", 0, bytes_max=2500)) == 3
    assert len(log.read_ordered("events", 9, bytes_max=1)) == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=9)), max_size=6), max_size=6))
def test_numbers_order_the_partitions_and_offsets_ascend_in_each(log: LmdbLog, batches: list[list[tuple[int, bytes]]]) -> None:
    begin = log.next_number("events")
    ends = {partition: log.end_offset("events", partition) for partition in range(3)}
    for n, batch in enumerate(batches):
        log.append("events", [Entry(partition, value) for partition, value in batch], now_ms=n)
    fed = [(partition, value) for batch in batches for partition, value in batch]
    found = log.read_ordered("events", begin)
    assert [(record.partition, record.value) for record in found] == fed
    assert [record.number for record in found] == list(range(begin, begin + len(fed)))
    for partition, end in ends.items():
        here = [record for record in found if record.partition == partition]
        assert [record.offset for record in here] == list(range(end, end + len(here)))
        assert log.read("events", partition, end) == here and log.end_offset("events", partition) == end + len(here)


def test_number_of_finds_where_to_go_on(log: LmdbLog) -> None:
    log.append("events", [Entry(0, b""), Entry(1, b""), Entry(0, b"")], now_ms=1)
    assert [log.number_of("events", 0, offset) for offset in (0, 1, 2)] == [0, 2, 3]
    assert [log.number_of("events", partition, 0) for partition in (1, 2)] == [1, 3]
    assert log.number_of("nothing", 0, 0) == 0


def test_topics_are_apart_and_keep_their_identity(log: LmdbLog) -> None:
    log.append("events", [Entry(2, b"e")], now_ms=1)
    log.append("entities", [Entry(0, b"x"), Entry(0, b"y")], now_ms=1)
    log.append("events", [Entry(2, b"f")], now_ms=1)
    assert [record.value for record in log.read_ordered("events", 0)] == [b"e", b"f"]
    assert [record.value for record in log.read_ordered("entities", 0)] == [b"x", b"y"]
    events, entities = log.topic("events"), log.topic("entities")
    assert events.id != entities.id and log.topic("events") == events and events.partitions == 3
    assert log.topic("new").id == log.topic("new").id and log.end_offset("new", 0) == log.first_offset("new", 0) == 0


def test_a_topic_asked_for_by_many_threads_is_made_once(tmp_path: Path) -> None:
    for attempt in range(5):
        with small(tmp_path / str(attempt)) as log:
            ready = threading.Barrier(8)
            found: list[str] = []

            def ask(log: LmdbLog = log, ready: threading.Barrier = ready, found: list[str] = found) -> None:
                ready.wait(10)
                found.append(log.topic("events").id)
                log.append("events", [Entry(0, b"x")], now_ms=1)

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert set(found) == {log.topic("events").id} and len(found) == 8
            assert [record.offset for record in log.read("events", 0, 0)] == list(range(8))


def test_truncation_moves_the_first_offsets_and_keeps_the_rest(log: LmdbLog) -> None:
    log.append("events", [Entry(n % 2, b"%d" % n) for n in range(10)], now_ms=1)
    log.append("other", [Entry(0, b"x")], now_ms=1)
    assert log.truncate("events", 5) == 5 and log.truncate("events", 5) == 0 and log.truncate("nothing", 5) == 0
    assert [log.first_offset("events", partition) for partition in range(3)] == [3, 2, 0]
    assert [record.number for record in log.read_ordered("events", 0)] == [5, 6, 7, 8, 9]
    assert [record.offset for record in log.read("events", 0, 0)] == [3, 4]
    assert log.append("events", [Entry(0, b"")], now_ms=1)[0] == (0, 5, 10)
    assert log.number_of("events", 0, 0) == 6 and log.read("other", 0, 0)


def test_truncating_everything_leaves_an_empty_log_that_goes_on(log: LmdbLog) -> None:
    log.append("events", [Entry(0, b"a"), Entry(1, b"b")], now_ms=1)
    assert log.truncate("events", 99) == 2
    assert log.read_ordered("events", 0) == [] and log.first_offset("events", 0) == log.end_offset("events", 0) == 1
    assert log.append("events", [Entry(0, b"c")], now_ms=1)[0] == (0, 1, 2)
    assert log.truncate("events", 0) == 0


def test_a_log_is_there_after_it_was_closed(tmp_path: Path) -> None:
    with LmdbLog(tmp_path, partitions=2, log_bytes_max=1 << 24) as log:
        topic = log.topic("events")
        log.append("events", [Entry(1, b"a")], now_ms=5)
    with LmdbLog(tmp_path, partitions=4, log_bytes_max=1 << 24) as log:
        assert log.topic("events") == topic, "a topic keeps its partitions"
        assert log.append("events", [Entry(1, b"b")], now_ms=6)[0] == (1, 1, 1)
        assert [record.append_ms for record in log.read("events", 1, 0)] == [5, 6]


def test_a_log_made_anew_is_another_topic(tmp_path: Path) -> None:
    with small(tmp_path / "a") as one, small(tmp_path / "b") as other:
        assert one.topic("events").id != other.topic("events").id


def test_a_value_above_the_bound_is_refused_and_nothing_of_the_batch_is_appended(log: LmdbLog) -> None:
    with pytest.raises(ValueError, match="above the bound of 1048576: send fewer events in one message"):
        log.append("events", [Entry(0, b"a"), Entry(0, b"x" * (VALUE_BYTES_MAX + 1))], now_ms=1)
    assert log.next_number("events") == 0
    log.append("events", [Entry(0, b"x" * VALUE_BYTES_MAX)], now_ms=1)


def test_a_partition_that_is_not_there_is_an_error_and_nothing_is_appended(log: LmdbLog) -> None:
    with pytest.raises(IndexError):
        log.append("events", [Entry(0, b"a"), Entry(3, b"b")], now_ms=1)
    assert log.next_number("events") == 0 and log.read("events", 0, 0) == []


def fill_up(log: LmdbLog, value: bytes = b"x" * 50_000) -> int:
    """Append until the log is full; how many records it took."""
    for count in range(1000):
        try:
            log.append("events", [Entry(0, value)], now_ms=1)
        except LogFull:
            return count
    raise AssertionError("the log has no bound")


def test_a_full_log_refuses_names_its_bound_and_keeps_what_it_has(tmp_path: Path) -> None:
    with small(tmp_path) as log:
        count = fill_up(log)
        assert count > 5
        with pytest.raises(LogFull, match="its bound is log_bytes_max=1048576; raise it or let the archive catch up"):
            log.append("events", [Entry(0, b"y" * 50_000)], now_ms=1)
        assert log.next_number("events") == log.end_offset("events", 0) == count
        assert all(record.value == b"x" * 50_000 for record in log.read("events", 0, 0))
        log.append("events", [Entry(0, b"a small one")], now_ms=1)
        assert log.used_bytes() <= 1 << 20
    with small(tmp_path, 4 << 20) as larger:
        larger.append("events", [Entry(0, b"y" * 50_000)], now_ms=1)


def test_a_batch_that_does_not_fit_is_refused_as_a_whole(tmp_path: Path) -> None:
    with small(tmp_path) as log:
        with pytest.raises(LogFull):
            log.append("events", [Entry(0, b"a"), *[Entry(0, b"x" * 300_000)] * 3], now_ms=1)
        assert log.next_number("events") == 0 and log.read("events", 0, 0) == []


def test_the_last_of_the_disk_is_never_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(tmp_path) as log:
        log.append("events", [Entry(0, b"a")], now_ms=1)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=SPARE_BYTES))
        with pytest.raises(LogFull, match=r"only 67108864 bytes are free on the disk .* stay reserved: free some space"):
            log.append("events", [Entry(0, b"b")], now_ms=1)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=SPARE_BYTES + 2))
        log.append("events", [Entry(0, b"c")], now_ms=1)
        assert [record.value for record in log.read("events", 0, 0)] == [b"a", b"c"]


def test_truncation_makes_room_again_and_again(tmp_path: Path) -> None:
    with small(tmp_path) as log:
        first = fill_up(log)
        for _ in range(6):
            log.truncate("events", log.next_number("events"))
            assert fill_up(log) == first


def test_another_process_reads_beside_the_writer_and_sees_each_append(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from storage.log_lmdb import LmdbLog\n"
        "log = LmdbLog(Path(sys.argv[1]), log_bytes_max=1 << 20, read_only=True)\n"
        "for line in sys.stdin: sys.stdout.write(repr([r.value for r in log.read('events', 0, int(line))]) + '\\n'); sys.stdout.flush()"
    )
    with small(tmp_path) as log:
        log.append("events", [Entry(0, b"a")], now_ms=1)
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as reader:
            assert reader.stdin is not None and reader.stdout is not None

            def read(offset: int) -> str:
                assert reader.stdin is not None and reader.stdout is not None
                reader.stdin.write(f"{offset}\n")
                return reader.stdout.readline().strip()

            assert read(0) == "[b'a']"
            log.append("events", [Entry(0, b"b"), Entry(0, b"c")], now_ms=2)
            assert read(1) == "[b'b', b'c']"
            log.truncate("events", 2)
            assert read(0) == "[b'c']"
            reader.stdin.close()


def test_a_reader_cannot_append(tmp_path: Path) -> None:
    with small(tmp_path) as log:
        log.append("events", [Entry(0, b"a")], now_ms=1)
    with LmdbLog(tmp_path, log_bytes_max=1 << 20, read_only=True) as reader:
        assert reader.topic("events").partitions == 1 and reader.read("events", 0, 0)
        with pytest.raises(lmdb.ReadonlyError):
            reader.append("events", [Entry(0, b"b")], now_ms=1)


def test_an_acknowledged_append_survives_the_death_of_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from storage.log import Entry; from storage.log_lmdb import LmdbLog\n"
        "LmdbLog(Path(sys.argv[1]), log_bytes_max=1 << 20).append('events', [Entry(0, b'a')], now_ms=1); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == 9
    with small(tmp_path) as log:
        assert [record.value for record in log.read("events", 0, 0)] == [b"a"]
