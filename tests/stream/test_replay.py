"""Replay equals live: invariant 3 of the design, from archive and log, wherever the one ends and the other begins."""

import functools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.archive import Archive
from storage.log import PACK, Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import DIGESTED, NODES, TALLIES, Gap, Write
from storage.state_lmdb import LmdbState
from storage.state_memory import MemoryState
from stream.archiving import archive_rows
from stream.ingest import EVENTS, Ingest
from stream.replay import digest, digests, history, replay
from stream.shape import Shape
from stream.wire import decode, encode_pack
from tests.stream.event_logs import APPEND_MS, NO_LIMIT, SMALL, THREE, fill, ingest_all, letters, make_messages, stored, totals

EMPTY_PACK = encode_pack([])


@pytest.fixture(params=[SMALL, THREE], ids=["one partition", "three partitions"])
def shape(request: pytest.FixtureRequest) -> Shape:
    shape: Shape = request.param
    return shape


@pytest.fixture
def log(shape: Shape, tmp_path: Path) -> Iterator[LmdbLog]:
    with LmdbLog(tmp_path / "log", partitions=shape.partitions, log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(11), shape, count=260))
        yield log


@pytest.fixture
def live(log: LmdbLog, shape: Shape) -> MemoryState:
    state = MemoryState()
    ingest_all(log, state, shape, batch=97)
    return state


def archived(log: LmdbLog, folder: Path, *, below: int = 1 << 60, roll: int = 150) -> Archive:
    """An archive of the log's records numbered below `below`, written as the engine does."""
    archive = Archive(folder, roll_rows_max=roll)
    for record in log.read_ordered(EVENTS, 0, records_max=NO_LIMIT, bytes_max=NO_LIMIT):
        if record.number < below:
            archive.add(archive_rows(decode([record])))
    archive.flush()
    return archive


def replayed(archive: Archive, log: LmdbLog, shape: Shape, *, records_max: int = 4096, below: int | None = None) -> str:
    return digests(replay(history(archive, log, below=below, records_max=records_max), log, shape), shape.partitions)


@pytest.mark.parametrize("records_max", [1, 7, 4096])
def test_replay_equals_live_at_any_batch_size(records_max: int, log: LmdbLog, live: MemoryState, shape: Shape, tmp_path: Path) -> None:
    wanted = digests(live, shape.partitions)
    for below in (0, 100, 1000):
        archive = archived(log, tmp_path / f"archive {below}", below=below)
        assert replayed(archive, log, shape, records_max=records_max) == wanted


def test_replay_equals_live_when_the_log_forgot_what_is_archived(log: LmdbLog, live: MemoryState, shape: Shape, tmp_path: Path) -> None:
    archive, wanted = archived(log, tmp_path / "archive", below=200), digests(live, shape.partitions)
    for before in (90, 200):
        log.truncate(EVENTS, before)
        assert replayed(archive, log, shape) == wanted
    everything = archived_from_live(archive, log)
    log.truncate(EVENTS, 1 << 40)
    assert replayed(everything, log, shape) == wanted


def archived_from_live(archive: Archive, log: LmdbLog) -> Archive:
    archive.add(archive_rows(decode(log.read_ordered(EVENTS, 0, records_max=NO_LIMIT, bytes_max=NO_LIMIT))))
    archive.flush()
    return archive


def test_replay_up_to_a_number_is_the_state_that_was_live_then(log: LmdbLog, shape: Shape, tmp_path: Path) -> None:
    archive = archived(log, tmp_path / "archive", below=120)
    for below in (0, 60, 120, 190):
        state = MemoryState()
        ingest = Ingest(state, log, shape, names=Names(state))
        ingest.claim()
        ingest.apply(log.read_ordered(EVENTS, 0, records_max=NO_LIMIT, bytes_max=NO_LIMIT)[:below], now_ms=APPEND_MS)
        assert replayed(archive, log, shape, below=below) == digests(state, shape.partitions)


def test_replay_equals_live_after_a_crash_between_two_files_of_a_roll(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", partitions=3, log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(5), THREE, count=200))
        live = MemoryState()
        ingest_all(log, live, THREE)
        for lost in range(3):
            archive = archived(log, tmp_path / f"lost {lost}", below=150, roll=1 << 20)
            archive.parts()[lost].path.unlink()
            again = Archive(tmp_path / f"lost {lost}")
            assert replayed(again, log, THREE) == digests(live, 3), "before the archive caught up"
            archived_from_live(again, log)
            assert replayed(again, log, THREE) == digests(live, 3), "and after"


def test_offsets_that_neither_holds_are_a_gap_named_at_once(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(5), SMALL, count=60))
        archive = archived(log, tmp_path / "archive", below=20)
        log.truncate(EVENTS, 30)
        with pytest.raises(Gap, match=r"archive of partition 0 ends at offset 20, the log holds 30\.\.60: restore the archive folder"):
            history(archive, log)


def test_an_archive_of_another_log_is_a_gap(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log, LmdbLog(tmp_path / "other", log_bytes_max=1 << 28) as other:
        fill(log, make_messages(random.Random(5), SMALL, count=20))
        with pytest.raises(Gap, match=r"ends at offset 20, the log holds 0\.\.0"):
            history(archived(log, tmp_path / "archive"), other)


def test_a_log_that_is_trimmed_while_it_is_read_is_no_silent_gap(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(5), SMALL, count=20))
        source = history(Archive(tmp_path / "archive"), log, records_max=5)
        next(source)
        log.truncate(EVENTS, 12)
        with pytest.raises(Gap, match="forgot what came from append 5 on"):
            next(source)


def test_a_pack_without_events_at_the_end_of_the_archive_is_no_gap(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(5), SMALL, count=20))
        log.append(EVENTS, [Entry(0, EMPTY_PACK, PACK)], now_ms=APPEND_MS)
        archive = archived(log, tmp_path / "archive")
        log.truncate(EVENTS, 21)
        state = replay(history(archive, log), log, SMALL)
        assert state.watermarks(EVENTS) == {0: 21}
        assert ingest_all(log, state, SMALL).tallies


def test_a_replay_keeps_the_tallies_and_sends_no_dead_letter_again(log: LmdbLog, shape: Shape, tmp_path: Path) -> None:
    live = MemoryState()
    wanted = totals(ingest_all(log, live, shape))
    sent = len(letters(log))
    state = replay(history(archived(log, tmp_path / "archive", below=130), log), log, shape)
    assert len(letters(log)) == sent > 0
    assert [dict(state.scan(TALLIES, p)) for p in range(shape.partitions)] == [dict(live.scan(TALLIES, p)) for p in range(shape.partitions)]
    assert totals(ingest_all(log, state, shape)) == wanted
    assert state.watermarks(EVENTS) == live.watermarks(EVENTS)


def test_a_replay_into_a_disk_is_the_one_in_memory(log: LmdbLog, live: MemoryState, shape: Shape, tmp_path: Path) -> None:
    state = LmdbState(tmp_path / "state", boot_id="this boot", state_bytes_max=1 << 28)
    replay(history(archived(log, tmp_path / "archive", below=130), log), log, shape, state=state)
    assert stored(state, shape.partitions) == stored(live, shape.partitions)
    assert digests(state, shape.partitions) == digests(live, shape.partitions)
    state.close()


@functools.cache
def applied_state() -> MemoryState:
    """A small state in three partitions; whoever changes it puts it back."""
    with tempfile.TemporaryDirectory() as folder, LmdbLog(Path(folder), partitions=3, log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(2), THREE, count=40))
        state = MemoryState()
        ingest_all(log, state, THREE)
        return state


def put(state: MemoryState, table: str, partition: int, *, node: int, blob: bytes | None) -> None:
    state.commit([], [Write(table, partition, np.array([node], dtype=np.uint64), [blob])])


@given(data=st.data())
def test_any_changed_byte_changes_the_digest_of_its_partition_alone(data: st.DataObject) -> None:
    state = applied_state()
    rows = [(table, p, node, blob) for table in DIGESTED for p in range(3) for node, blob in state.scan(table, p)]
    table, partition, node, blob = data.draw(st.sampled_from(rows))
    before = [digest(state, p) for p in range(3)]
    changed = bytearray(blob)
    changed[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    put(state, table, partition, node=node, blob=bytes(changed))
    assert [p for p in range(3) if digest(state, p) != before[p]] == [partition]
    put(state, table, partition, node=node, blob=None)
    assert digest(state, partition) != before[partition], "a missing row is a difference"
    put(state, table, partition, node=node, blob=blob)
    put(state, NODES, partition, node=node, blob=b"content is in no digest")
    assert [digest(state, p) for p in range(3)] == before
