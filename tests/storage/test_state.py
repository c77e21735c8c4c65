"""The contract of every state, over each implementation; then what only the one on disk must keep.

A new implementation is one line in `MAKERS`.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from storage.arrays import U64s
from storage.partitioned import distinct_rows, read_rows, write_rows
from storage.state import COUNTS, HISTORIES, NAMES, SEEN, Advance, Fenced, Gap, ShapeChanged, State, WatermarkMoved, Write
from storage.state_lmdb import LmdbState, boot_id
from storage.state_memory import MemoryState
from tests.services import redis_cluster_state, redis_state

ROOT = Path(__file__).resolve().parents[2]
BIG = (1 << 64) - 1
MAKERS: dict[str, Callable[[Path], State]] = {
    "memory": lambda folder: MemoryState(),
    "lmdb": lambda folder: LmdbState(folder / "state", boot_id="boot 1", state_bytes_max=1 << 26),
    "redis": lambda folder: redis_state(),
    "redis cluster": lambda folder: redis_cluster_state(),
}
ONE_PARTITION_A_COMMIT = {"redis cluster"}
"""A script reaches one slot; what it does with more is in tests/cluster/test_redis_cluster.py."""


@pytest.fixture(params=MAKERS)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[name for name in MAKERS if name not in ONE_PARTITION_A_COMMIT])
def wide(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """Where a commit may advance several partitions."""
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def ids(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def put(state: State, key: int, value: bytes | None, table: str = COUNTS, partition: int = 0) -> None:
    state.commit([], [Write(table, partition, ids(key), [value])])


def test_a_read_after_a_commit_sees_all_of_it_in_the_order_asked(state: State) -> None:
    state.commit([], [Write(COUNTS, 0, ids(3, 1, BIG), [b"three", b"one", memoryview(b"big")]), Write(SEEN, 0, ids(1), [b"seen"])])
    assert state.read(COUNTS, 0, ids(1, BIG, 2, 3, 1)) == [b"one", b"big", None, b"three", b"one"]
    assert state.read(SEEN, 0, ids(1, 3)) == [b"seen", None]
    assert state.read(COUNTS, 1, ids(1)) == [None]
    assert state.read(COUNTS, 0, ids()) == []


def test_several_reads_at_once_are_what_each_gives_alone(state: State) -> None:
    state.commit([], [Write(COUNTS, 0, ids(3, 1), [b"three", b"one"]), Write(SEEN, 2, ids(1), [b"seen"])])
    asked = [(COUNTS, 0, ids(1, 2, 3)), (SEEN, 2, ids(1)), (SEEN, 0, ids(1)), (COUNTS, 0, ids())]
    assert state.read_many(asked) == [state.read(*one) for one in asked] == [[b"one", None, b"three"], [b"seen"], [None], []]
    assert state.read_many([]) == []


def test_a_later_write_replaces_and_writing_twice_is_writing_once(state: State) -> None:
    for value in (b"old", b"newer", b"newer"):
        put(state, 1, value)
    assert list(state.scan(COUNTS, 0)) == [(1, b"newer")]
    state.commit([], [Write(COUNTS, 0, ids(1), [b"first"]), Write(COUNTS, 0, ids(1), [b"last"])])
    assert state.read(COUNTS, 0, ids(1)) == [b"last"]


def test_none_deletes_and_an_empty_blob_is_a_blob(state: State) -> None:
    state.commit([], [Write(COUNTS, 0, ids(1, 2, 3), [b"", b"b", b"c"])])
    state.commit([], [Write(COUNTS, 0, ids(2, 9, 4), [None, None, b"d"])])
    assert list(state.scan(COUNTS, 0)) == [(1, b""), (3, b"c"), (4, b"d")]
    assert state.read(COUNTS, 0, ids(1, 2)) == [b"", None]


def test_only_rows_that_hold_what_was_seen_are_cleared(state: State) -> None:
    for key, value in ((1, b"seen"), (2, b"moved since"), (3, b""), (1 << 63, b"seen")):
        put(state, key, value)
    state.clear(COUNTS, 0, ids(1, 2, 3, 4, 1 << 63), [b"seen", b"seen", b"", b"seen", b"seen"])
    assert list(state.scan(COUNTS, 0)) == [(2, b"moved since")]
    state.clear(COUNTS, 0, ids(), [])


def test_what_is_read_does_not_change_under_the_reader(state: State) -> None:
    blob = bytearray(b"abc")
    put(state, 1, memoryview(blob))  # type: ignore[arg-type]  # what a working set hands over
    blob[:] = b"xyz"
    (read,) = state.read(COUNTS, 0, ids(1))
    put(state, 1, b"later")
    assert read == b"abc"


def test_a_scan_ascends_by_id_within_its_partition(state: State) -> None:
    keys = [int(key) for key in np.random.default_rng(1).integers(0, BIG, 200, dtype=np.uint64)]
    for partition in (0, 1, 4095):
        state.commit([], [Write(NAMES, partition, ids(*keys), [b"%d %d" % (partition, key) for key in keys])])
    for partition in (0, 1, 4095):
        assert list(state.scan(NAMES, partition)) == [(key, b"%d %d" % (partition, key)) for key in sorted(keys)]
    assert list(state.scan(NAMES, 2)) == [] and list(state.scan(HISTORIES, 0)) == []


def test_watermarks_begin_at_zero_and_move_with_the_commit(state: State) -> None:
    claims = {partition: state.claim("events", partition, "topic") for partition in range(3)}
    other = state.claim("events 2", 0, "topic")
    assert state.watermarks("events") == {0: 0, 1: 0, 2: 0}
    state.commit([Advance(claims[0], 0, 5), Advance(other, 0, 1)], [Write(COUNTS, 0, ids(1), [b"x"])])
    state.commit([Advance(claims[2], 0, 7)], [])
    assert state.watermarks("events") == {0: 5, 1: 0, 2: 7} and state.watermarks("nothing") == {}
    assert state.claim("events", 0, "topic").watermark == 5


def test_each_claim_raises_the_epoch_and_fences_the_one_before(state: State) -> None:
    old, new = state.claim("events", 0, "topic"), state.claim("events", 0, "topic")
    assert (old.epoch, new.epoch) == (1, 2)
    with pytest.raises(Fenced, match="partition 0 of 'events' is at epoch 2, this claim is of 1"):
        state.commit([Advance(old, 0, 1)], [Write(COUNTS, 0, ids(1), [b"late"])])
    assert state.read(COUNTS, 0, ids(1)) == [None] and state.watermarks("events") == {0: 0}
    state.commit([Advance(new, 0, 1)], [Write(COUNTS, 0, ids(1), [b"mine"])])
    assert state.claim("events", 1, "topic").epoch == 1, "each partition has its own"


def test_a_commit_from_another_watermark_writes_nothing(state: State) -> None:
    claim = state.claim("events", 0, "topic")
    state.commit([Advance(claim, 0, 4)], [])
    for before in (0, 3, 5):
        with pytest.raises(WatermarkMoved, match=f"partition 0 of 'events' stands at 4, the batch began at {before}"):
            state.commit([Advance(claim, before, 9)], [Write(COUNTS, 0, ids(1), [b"twice"])])
    assert state.read(COUNTS, 0, ids(1)) == [None] and state.watermarks("events") == {0: 4}


def test_a_read_says_whether_it_is_of_the_watermark_it_was_asked_at(wide: State) -> None:
    asked = [(COUNTS, 1, ids(7))]
    old, claim = wide.claim("events", 1, "topic"), wide.claim("events", 1, "topic")
    other = wide.claim("events", 0, "topic")
    wide.commit([Advance(claim, 0, 4)], [Write(COUNTS, 1, ids(7), [b"x"])])
    assert wide.read_many(asked, at=[(other, 0), (claim, 4)]) == [[b"x"]] and wide.read_many([], at=[(claim, 4)]) == []
    with pytest.raises(WatermarkMoved, match="partition 1 of 'events' stands at 4, the batch began at 5"):
        wide.read_many(asked, at=[(other, 0), (claim, 5)])
    with pytest.raises(Fenced, match="partition 1 of 'events' is at epoch 2, this claim is of 1"):
        wide.read_many(asked, at=[(old, 4)])


def test_commits_that_go_together_are_refused_each_by_itself(wide: State) -> None:
    claims = [wide.claim("events", partition, "topic") for partition in range(3)]
    wide.claim("events", 1, "topic")
    commits = [([Advance(claim, 0, 5)], [Write(COUNTS, n, ids(n), [b"x"])]) for n, claim in enumerate(claims)]
    first, second, third = wide.commit_each(commits)
    assert first is None and third is None and isinstance(second, Fenced) and "at epoch 2, this claim is of 1" in str(second)
    assert wide.watermarks("events") == {0: 5, 1: 0, 2: 5}
    assert [list(wide.scan(COUNTS, n)) for n in range(3)] == [[(0, b"x")], [], [(2, b"x")]]
    (again,) = wide.commit_each(commits[:1])
    assert isinstance(again, WatermarkMoved) and "stands at 5, the batch began at 0" in str(again)
    assert wide.commit_each([]) == []


def test_a_commit_is_all_or_nothing_over_partitions(wide: State) -> None:
    good, bad = wide.claim("events", 0, "topic"), wide.claim("events", 1, "topic")
    wide.claim("events", 1, "topic")
    with pytest.raises(Fenced):
        wide.commit([Advance(good, 0, 3), Advance(bad, 0, 3)], [Write(COUNTS, p, ids(1), [b"x"]) for p in (0, 1)])
    assert wide.watermarks("events") == {0: 0, 1: 0}
    assert not list(wide.scan(COUNTS, 0)) and not list(wide.scan(COUNTS, 1))
    wide.commit([Advance(good, 0, 3), Advance(wide.claim("events", 1, "topic"), 0, 4)], [])
    assert wide.watermarks("events") == {0: 3, 1: 4}


def test_another_topic_id_is_a_gap_until_it_is_accepted(state: State) -> None:
    first = state.claim("events", 0, "old")
    state.commit([Advance(first, 0, 9)], [])
    with pytest.raises(Gap, match=r"read from topic id old, the log now has new\. Rebuild .* or accept the loss"):
        state.claim("events", 0, "new")
    state.accept("events", 0, "new", 2)
    claim = state.claim("events", 0, "new")
    assert (claim.incarnation, claim.watermark, claim.topic_id) == (1, 2, "new")
    with pytest.raises(Gap):
        state.claim("events", 0, "old")


def test_accepting_a_topic_fences_whoever_still_reads_the_old_one(state: State) -> None:
    old = state.claim("events", 0, "old")
    state.accept("events", 0, "new", 0)
    with pytest.raises(Fenced):
        state.commit([Advance(old, 0, 1)], [])


def test_accepting_the_same_topic_keeps_its_incarnation(state: State) -> None:
    state.claim("events", 0, "topic")
    state.accept("events", 0, "topic", 6)
    claim = state.claim("events", 0, "topic")
    assert (claim.incarnation, claim.watermark) == (0, 6)


def test_another_shape_is_refused_naming_every_difference_and_the_way_out(state: State) -> None:
    shape: dict[str, str | int | float] = {"history_max": 128, "partitions": 1, "actions": "{}"}
    state.shape(shape)
    state.shape(dict(shape))
    with pytest.raises(ShapeChanged, match=r"history_max: stored 128, asked 64; new: stored None, asked 1.*freshet rebuild"):
        state.shape({**shape, "history_max": 64, "new": 1})
    with pytest.raises(ShapeChanged, match="partitions: stored 1, asked None"):
        state.shape({"history_max": 128, "actions": "{}"})
    state.shape(shape)


def test_rows_of_several_partitions_are_read_and_written_in_their_order(state: State) -> None:
    keys, partitions = ids(5, 3, 9, 1), np.array([1, 0, 1, 2], dtype=np.int64)
    state.commit([], write_rows(COUNTS, partitions, keys, [b"5", b"3", b"9", b"1"]))
    assert [list(state.scan(COUNTS, p)) for p in range(3)] == [[(3, b"3")], [(5, b"5"), (9, b"9")], [(1, b"1")]]
    assert read_rows(state, COUNTS, partitions, keys) == [b"5", b"3", b"9", b"1"]
    assert read_rows(state, COUNTS, partitions[:1] * 0, keys[:1]) == [None]


@pytest.mark.parametrize("count", [0, 1, 5, 2_000])
def test_distinct_ids_are_known_by_their_first_row_and_ascend_where_they_are_many(count: int) -> None:
    nodes = np.random.default_rng(4).integers(0, max(1, count // 2), size=count).astype(np.uint64) * np.uint64(BIG // 2_000)
    first, rows = distinct_rows(nodes)
    assert nodes[first][rows].tolist() == nodes.tolist() and len(first) == len(set(nodes.tolist()))
    assert [nodes.tolist().index(node) for node in nodes[first].tolist()] == first.tolist()
    if count == 2_000:
        assert np.all(np.diff(nodes[first].astype(np.float64)) > 0)


def open_lmdb(folder: Path, boot: str = "boot 1", *, read_only: bool = False) -> LmdbState:
    return LmdbState(folder, boot_id=boot, state_bytes_max=1 << 26, read_only=read_only)


def test_a_state_on_disk_is_there_after_it_was_closed(tmp_path: Path) -> None:
    state = open_lmdb(tmp_path)
    state.shape({"a": 1})
    state.commit([Advance(state.claim("events", 0, "topic"), 0, 8)], [Write(COUNTS, 3, ids(1), [b"kept"])])
    state.close()
    again = open_lmdb(tmp_path, "boot 2")
    assert not again.distrusted and again.read(COUNTS, 3, ids(1)) == [b"kept"] and again.watermarks("events") == {0: 8}
    assert again.claim("events", 0, "topic").epoch == 2
    with pytest.raises(ShapeChanged):
        again.shape({"a": 2})
    again.close()


def leave_unclosed(folder: Path, boot: str) -> None:
    """Commit one row in a process that ends without closing."""
    code = (
        "import os, sys, numpy as np; from pathlib import Path\n"
        "from storage.state_lmdb import LmdbState; from storage.state import Advance, Write\n"
        "state = LmdbState(Path(sys.argv[1]), boot_id=sys.argv[2], state_bytes_max=1 << 26); state.shape({'a': 1})\n"
        "row = Write('counts', 0, np.array([1], dtype=np.uint64), [b'row'])\n"
        "state.commit([Advance(state.claim('events', 0, 't'), 0, 4)], [row]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder), boot], cwd=ROOT, check=False).returncode == 9


def test_a_state_on_disk_survives_the_death_of_its_process(tmp_path: Path) -> None:
    leave_unclosed(tmp_path, "boot 1")
    state = open_lmdb(tmp_path, "boot 1")
    assert not state.distrusted and state.read(COUNTS, 0, ids(1)) == [b"row"] and state.watermarks("events") == {0: 4}
    state.close()


def test_a_state_on_disk_is_distrusted_and_empty_after_another_boot_without_a_clean_close(tmp_path: Path) -> None:
    leave_unclosed(tmp_path, "boot 1")
    state = open_lmdb(tmp_path, "boot 2")
    assert state.distrusted and not list(state.scan(COUNTS, 0)) and state.watermarks("events") == {}
    state.shape({"a": 2})
    put(state, 5, b"rebuilt")
    state.close()
    again = open_lmdb(tmp_path, "boot 3")
    assert not again.distrusted and again.read(COUNTS, 0, ids(5)) == [b"rebuilt"]
    again.close()


def test_a_distrusted_state_that_dies_in_its_rebuild_is_distrusted_again_after_the_next_boot(tmp_path: Path) -> None:
    leave_unclosed(tmp_path, "boot 1")
    leave_unclosed(tmp_path, "boot 2")
    state = open_lmdb(tmp_path, "boot 3")
    assert state.distrusted and state.read(COUNTS, 0, ids(1)) == [None]
    state.close()


def test_a_reader_beside_the_writer_sees_commits_and_notes_no_close(tmp_path: Path) -> None:
    leave_unclosed(tmp_path, "boot 1")
    reader = open_lmdb(tmp_path, "boot 1", read_only=True)
    assert reader.read(COUNTS, 0, ids(1)) == [b"row"]
    reader.shape({"a": 1})
    with pytest.raises(ShapeChanged):
        reader.shape({"a": 3})
    with pytest.raises(lmdb.ReadonlyError):
        put(reader, 1, b"no")
    reader.close()
    state = open_lmdb(tmp_path, "boot 2")
    assert state.distrusted
    state.close()


def test_a_reset_forgets_everything(tmp_path: Path) -> None:
    state = open_lmdb(tmp_path)
    state.shape({"a": 1})
    state.commit([Advance(state.claim("events", 0, "topic"), 0, 8)], [Write(COUNTS, 0, ids(1), [b"x" * 9000])])
    assert state.used_bytes(COUNTS) > 9000
    state.reset()
    state.sync()
    assert state.watermarks("events") == {} and state.used_bytes(COUNTS) == 0
    state.shape({"a": 2})
    state.close()


def test_a_state_that_is_full_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, boot_id="boot", state_bytes_max=1 << 20)
    claim = state.claim("events", 0, "topic")
    state.commit([Advance(claim, 0, 1)], [Write(COUNTS, 0, ids(1), [b"kept"])])
    with pytest.raises(lmdb.MapFullError):
        state.commit([Advance(claim, 1, 2)], [Write(COUNTS, 0, ids(2, 3), [b"x", b"y" * (2 << 20)])])
    assert list(state.scan(COUNTS, 0)) == [(1, b"kept")] and state.watermarks("events") == {0: 1}
    state.commit([Advance(claim, 1, 2)], [Write(COUNTS, 0, ids(2), [b"goes on"])])
    state.close()


def test_a_scan_is_a_snapshot_that_other_reads_and_writes_do_not_disturb(state: State) -> None:
    for key in range(5):
        put(state, key, b"old")
    found = []
    for key, value in state.scan(COUNTS, 0):
        assert state.read(COUNTS, 0, ids(0)) != [None]
        put(state, key + 100, b"new")
        put(state, 4, b"changed")
        found.append((key, value))
    assert found == [(key, b"old") for key in range(5)]


def test_the_boot_id_of_this_machine_is_known_and_stays() -> None:
    assert boot_id() and boot_id() == boot_id()
