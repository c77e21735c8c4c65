"""The archive: whole files or none, rows in the order of their appends, and damage that is named; in a folder and in a file system.

A crash between two files of a roll is a writer that is gone, and some of the roll's files with it.
"""

import errno
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

import storage.archive
from storage.archive import Archive, ArchiveDamaged
from storage.columns import ARCHIVE_SCHEMA
from storage.files import DiskFull
from storage.places import FsPlace, Place
from tests.full_disk import files_end_at

Row = tuple[int, int, int, int]
"""Append number, partition, offset, index."""
At = Callable[[Path], Path | Place]


def in_a_file_system(folder: Path) -> Place:
    return FsPlace(SubTreeFileSystem(str(folder.parent), LocalFileSystem()), folder.name)


FORMS: dict[str, At] = {"folder": lambda folder: folder, "file system": in_a_file_system}
over_both = pytest.mark.parametrize("at", FORMS.values(), ids=FORMS.keys())


def batch(rows: list[Row], *, text_bytes: int = 0) -> pa.RecordBatch:
    noise = random.Random(1)
    return pa.RecordBatch.from_pylist(
        [
            {"number": number, "partition": partition, "offset": offset, "index": index, "append_ms": 5, "user_id": f"user {number}"}
            | ({"extra": noise.randbytes(text_bytes // 2).hex()} if text_bytes else {})
            for number, partition, offset, index in rows
        ],
        schema=ARCHIVE_SCHEMA,
    )


def made(partitions: list[int], *, pack: int = 1) -> list[Row]:
    """Records appended to these partitions in turn, `pack` events each."""
    ends = dict.fromkeys(partitions, 0)
    rows = []
    for number, partition in enumerate(partitions):
        rows += [(number, partition, ends[partition], index) for index in range(pack)]
        ends[partition] += 1
    return rows


def found(archive: Archive, *, below: int | None = None) -> list[Row]:
    columns = ("number", "partition", "offset", "index")
    return [row for table in archive.scan(below=below) for row in zip(*(table.column(name).to_pylist() for name in columns), strict=True)]


@over_both
def test_rows_come_back_in_the_order_of_their_appends_over_rolls_and_partitions(at: At, tmp_path: Path) -> None:
    rows = made([0, 1, 0, 2, 1, 1, 0, 2, 0, 1], pack=3)
    archive = Archive(at(tmp_path), roll_rows_max=7)
    for begin in range(0, len(rows), 3):
        archive.add(batch(rows[begin : begin + 3]))
    archive.flush()
    assert found(Archive(at(tmp_path), read_only=True)) == rows
    assert len(archive.parts()) > 4
    assert [archive.published(p) for p in range(4)] == [4, 4, 2, 0]


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Row], list[tuple[int, int]], int]:
    """Rows, the crashes (before which append; whose partition's file it took), and the roll's size."""
    partitions = draw(st.lists(st.integers(0, 2), min_size=1, max_size=16))
    crashes = draw(st.lists(st.tuples(st.integers(0, len(partitions)), st.integers(0, 2)), max_size=3))
    return made(partitions, pack=draw(st.integers(1, 2))), sorted(crashes), draw(st.sampled_from([3, 8, 100]))


@over_both
@given(life=lives(), below=st.integers(0, 17))
@settings(max_examples=30)
def test_overlaps_are_dropped_and_the_order_kept_whatever_files_a_crash_took(
    at: At, life: tuple[list[Row], list[tuple[int, int]], int], below: int
) -> None:
    rows, crashes, roll = life
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(at(Path(folder)), roll_rows_max=roll)
        for until, lost in [*crashes, (len(rows), -1)]:
            again = min((row[0] for row in rows if row[2] >= archive.position(row[1])), default=0)
            for number in range(again, until):
                archive.add(batch([row for row in rows if row[0] == number]))
            held = set(Path(folder).iterdir())
            archive.flush()
            if lost >= 0:
                for path in set(Path(folder).iterdir()) - held:
                    if f"-p{lost}-" in path.name:
                        path.unlink()
                archive = Archive(at(Path(folder)), roll_rows_max=roll)
        assert found(archive) == rows
        assert found(archive, below=below) == [row for row in rows if row[0] < below]


@over_both
def test_a_row_archived_already_is_dropped_by_its_offset(at: At, tmp_path: Path) -> None:
    rows = made([0, 1, 0, 1])
    archive = Archive(at(tmp_path))
    archive.add(batch(rows[:3]))
    archive.add(batch(rows))
    archive.flush()
    again = Archive(at(tmp_path))
    assert (again.position(0), again.position(1), again.position(7)) == (2, 2, 0)
    again.add(batch(rows))
    again.flush()
    assert found(again) == rows


def test_a_full_disk_loses_nothing_and_the_flush_can_be_tried_again(tmp_path: Path) -> None:
    rows = made([0, 1, 1, 0])
    archive = Archive(tmp_path)
    archive.add(batch(rows[:1]))
    archive.add(batch(rows[1:], text_bytes=60_000))
    with files_end_at(30_000), pytest.raises(DiskFull, match="free some space and try again"):
        archive.flush()
    assert found(archive) == []
    assert not list(tmp_path.iterdir()), "nothing half-written stays"
    assert (archive.position(0), archive.published(0)) == (2, 0)
    archive.add(batch([(4, 0, 2, 0)]))
    archive.flush()
    assert found(archive) == [*rows, (4, 0, 2, 0)]


def test_after_a_full_disk_between_two_files_the_next_process_writes_the_rest(tmp_path: Path) -> None:
    rows = made([0, 1, 0, 1, 0, 1])
    archive = Archive(tmp_path)
    small, large = [row for row in rows if row[1] == 0], [row for row in rows if row[1] == 1]
    archive.add(pa.Table.from_batches([batch(small), batch(large, text_bytes=60_000)]).sort_by("number").to_batches()[0])
    with files_end_at(30_000), pytest.raises(DiskFull):
        archive.flush()
    assert [part.partition for part in archive.parts()] == [0]
    again = Archive(tmp_path)
    again.add(batch(rows))
    again.flush()
    assert found(again) == rows


def test_a_full_file_system_loses_nothing_either(tmp_path: Path) -> None:
    archive = Archive(in_a_file_system(tmp_path))
    archive.add(batch(made([0]), text_bytes=60_000))
    with files_end_at(30_000), pytest.raises(OSError, match="File too large"):
        archive.flush()
    assert not list(tmp_path.iterdir()), "nothing half-written stays"
    archive.flush()
    assert found(archive) == made([0])


@over_both
def test_what_the_encoder_cannot_write_waits(at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    archive = Archive(at(tmp_path), roll_rows_max=2)
    with monkeypatch.context() as patch:
        patch.setattr(pyarrow.parquet, "write_table", full)
        with pytest.raises(OSError, match="no space left"):
            archive.add(batch(made([0, 0])))
        with pytest.raises(OSError, match="no space left"):
            archive.flush()
    archive.flush()
    assert found(archive) == made([0, 0])


@over_both
def test_a_roll_is_bounded_in_rows_and_bytes(at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(at(tmp_path), roll_rows_max=3)
    archive.add(batch(made([0, 0])))
    assert not archive.parts()
    archive.add(batch([(2, 0, 2, 0)]))
    assert len(archive.parts()) == 1
    monkeypatch.setattr(storage.archive, "ROLL_BYTES_MAX", 100_000)
    archive.add(batch([(3, 0, 3, 0)], text_bytes=100_000))
    assert len(archive.parts()) == 2


def test_a_half_written_file_is_never_seen_and_is_swept_by_the_next_writer(tmp_path: Path) -> None:
    rows = made([0, 0, 0])
    archive = Archive(tmp_path)
    archive.add(batch(rows))
    archive.flush()
    (whole,) = tmp_path.iterdir()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    torn = tmp_path / f".events-i0-p0-o000000000003-000000000009-n000000000003-x{0:016x}.parquet.{int(gone.stdout)}.0.aside"
    torn.write_bytes(whole.read_bytes()[:100])
    assert found(Archive(tmp_path, read_only=True)) == rows
    assert torn.exists(), "a reader changes nothing"
    assert Archive(tmp_path).position(0) == 3
    assert list(tmp_path.iterdir()) == [whole]


def archived_bytes(at: At, folder: Path) -> tuple[Path, bytes]:
    archive = Archive(at(folder))
    archive.add(batch(made([0] * 40)))
    archive.flush()
    (part,) = archive.parts()
    path = folder / part.path.name
    return path, path.read_bytes()


def assert_damaged(at: At, path: Path) -> None:
    archive = Archive(at(path.parent), read_only=True)
    with pytest.raises(ArchiveDamaged) as raised:
        found(archive)
    assert str(archive.parts()[0].path) in str(raised.value)
    assert "restore it from a copy, or move it away and accept the loss on record" in str(raised.value)


@over_both
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed_and_the_file_named(at: At, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, body = archived_bytes(at, Path(folder))
        flipped = bytearray(body)
        flipped[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(flipped)
        assert_damaged(at, path)


@over_both
@pytest.mark.parametrize("kept", [0, 1, 4, 100, -8, -1])
def test_a_truncated_file_is_named_with_the_way_out(at: At, kept: int, tmp_path: Path) -> None:
    path, body = archived_bytes(at, tmp_path)
    path.write_bytes(body[:kept])
    assert_damaged(at, path)


@over_both
def test_an_unreadable_file_is_named(at: At, tmp_path: Path) -> None:
    path, _ = archived_bytes(at, tmp_path)
    path.unlink()
    path.mkdir()
    assert_damaged(at, path)


@over_both
def test_a_file_of_another_version_is_named(at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = archived_bytes(at, tmp_path)
    monkeypatch.setattr(storage.archive, "ARCHIVE_SCHEMA", pa.schema([*ARCHIVE_SCHEMA, pa.field("mood", pa.string())]))
    with pytest.raises(ArchiveDamaged, match=r"other columns .* another version of freshet") as raised:
        found(Archive(at(tmp_path)))
    assert path.name in str(raised.value)


@over_both
@pytest.mark.parametrize(
    "name", ["events-i0.parquet", "events-i0-p0-o1-2.parquet", "events-import.parquet", "events-i0-p0-o0-1-n0.parquet"]
)
def test_a_foreign_file_that_looks_like_ours_is_refused_by_name(at: At, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ArchiveDamaged, match="is not named like an archive file; move it elsewhere") as raised:
        Archive(at(tmp_path))
    assert name in str(raised.value)


@over_both
def test_files_of_other_things_are_left_alone(at: At, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "edges-i0.parquet").write_text("another topic's")
    archive = Archive(at(tmp_path))
    archive.add(batch(made([0])))
    archive.flush()
    assert found(archive) == made([0])
    assert len(list(tmp_path.iterdir())) == 3


@over_both
def test_incarnations_come_one_after_the_other(at: At, tmp_path: Path) -> None:
    for incarnation, partitions in ((0, [0, 1, 0]), (1, [1, 0])):
        archive = Archive(at(tmp_path), incarnation=incarnation)
        assert archive.position(0) == 0, "offsets of the old topic say nothing of the new one"
        archive.add(batch(made(partitions)))
        archive.flush()
    assert found(archive) == made([0, 1, 0]) + made([1, 0])


@over_both
def test_one_archive_takes_a_topic_that_was_accepted_anew(at: At, tmp_path: Path) -> None:
    archive = Archive(at(tmp_path))
    archive.add(batch(made([0, 1, 0])))
    archive.accept(1)
    assert [archive.position(0), archive.published(1)] == [0, 0], "offsets of the old topic say nothing of the new one"
    archive.add(batch(made([1, 0])))
    archive.flush()
    archive.accept(1)
    assert [archive.position(0), archive.published(1)] == [1, 1]
    archive.add(batch(made([1, 0, 0])))
    archive.flush()
    again = Archive(at(tmp_path), read_only=True)
    assert (again.incarnation, [again.published(p) for p in (0, 1)]) == (1, [2, 1])
    assert found(again) == made([0, 1, 0]) + made([1, 0, 0])
    assert [(incarnation, rows.num_rows) for incarnation, rows in again.rolls()] == [(0, 3), (1, 2), (1, 1)]
    assert found(again, below=1) == made([0, 1, 0]) + made([1]), "numbers of the old topic say nothing of the new one"
    assert found(Archive(at(tmp_path), incarnation=0, read_only=True), below=2) == made([0, 1])
    for going_back in (lambda: archive.accept(0), lambda: Archive(at(tmp_path), incarnation=0)):
        with pytest.raises(ValueError, match="of 'events' is at incarnation 1 and takes no rows of 0: use the archive that belongs"):
            going_back()


@st.composite
def kafka_lives(draw: st.DrawFn) -> list[list[Row]]:
    """Batches of one partition each, in which a record's number is its offset."""
    ends = {partition: draw(st.integers(0, 20)) for partition in range(3)}
    batches = []
    for partition, count in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=12)):
        batches.append([(ends[partition] + n, partition, ends[partition] + n, index) for n in range(count) for index in range(2)])
        ends[partition] += count
    return batches


@given(batches=kafka_lives(), roll=st.sampled_from([1, 7, 100]))
@settings(max_examples=30)
def test_partitions_that_number_their_records_by_themselves_lose_none_and_keep_their_order(batches: list[list[Row]], roll: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder), roll_rows_max=roll)
        for rows in batches:
            archive.add(batch(rows))
        archive.flush()
        assert found(archive) == sorted(row for rows in batches for row in rows)


@over_both
def test_topics_lie_apart_in_one_folder(at: At, tmp_path: Path) -> None:
    for topic in ("events", "edges"):
        archive = Archive(at(tmp_path), topic=topic)
        archive.add(batch(made([0])))
        archive.flush()
    assert found(Archive(at(tmp_path), topic="edges")) == made([0])


@over_both
def test_a_reader_makes_no_folder_and_finds_nothing(at: At, tmp_path: Path) -> None:
    archive = Archive(at(tmp_path / "nowhere"), read_only=True)
    assert found(archive) == []
    assert not (tmp_path / "nowhere").exists()


@over_both
def test_an_empty_batch_and_an_empty_flush_write_nothing(at: At, tmp_path: Path) -> None:
    archive = Archive(at(tmp_path))
    archive.add(batch([]))
    archive.flush()
    assert found(archive) == []
    assert not list(tmp_path.iterdir())
