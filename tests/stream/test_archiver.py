"""The worker's archive over a log in a folder: every record once, whoever handed it over, and whatever was away meanwhile."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from bench.services import wait_until
from storage.archive import Archive
from storage.log import JSON, PACK, Entry, Record
from storage.log_lmdb import LmdbLog
from storage.places import LocalPlace
from storage.state import Gap
from stream import archiver as module
from stream.archiver import NICENESS, Archiver
from stream.archiving import archive_rows
from stream.ingest import EVENTS
from stream.wire import decode, encode_pack
from tests.stream.event_logs import SMALL, fill, make_messages

SOON_S = 20.0
NEVER_MS = 1 << 40


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    """Eighty records of one partition."""
    with LmdbLog(tmp_path / "log") as opened:
        fill(opened, make_messages(random.Random(4), SMALL, count=80))
        yield opened


class Failing(LocalPlace):
    """A folder that is away for its first `failures` writes."""

    def __init__(self, folder: Path, failures: int) -> None:
        super().__init__(folder, shared=True)
        self.failures, self.refused = failures, threading.Event()

    def write(self, name: str, data: bytes) -> None:
        """Refuse, or write."""
        if self.failures:
            self.failures -= 1
            self.refused.set()
            raise OSError("the store is away")
        super().write(name, data)


def between(log: LmdbLog, begin: int, end: int) -> list[Record]:
    return [record for record in log.read(EVENTS, 0, begin, records_max=1000) if record.offset < end]


def hand_over(archiver: Archiver, log: LmdbLog, begin: int, end: int, *, step: int = 7) -> None:
    """As a worker does: batch after batch."""
    for at in range(begin, end, step):
        upto = min(at + step, end)
        archiver.applied(0, decode(between(log, at, upto)), upto)


def archived(place: LocalPlace) -> str:
    return repr([row for table in Archive(place, read_only=True).scan() for row in table.to_pylist()])


def everything(log: LmdbLog, end: int) -> str:
    return repr(pa.Table.from_batches([archive_rows(decode(between(log, 0, end)))]).to_pylist())


def started(place: LocalPlace, log: LmdbLog, *, age_ms: int = NEVER_MS, retry_s: float = 0.01) -> Archiver:
    return Archiver(place, log, clock_ms=lambda: 0, age_ms=age_ms, retry_s=retry_s)


def test_what_is_handed_over_is_in_files_when_asked_for_and_what_comes_later_too(log: LmdbLog, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = started(place, log)
    assert archiver.flush(timeout_s=SOON_S), "before the first claim there is nothing to do"
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 30)
    assert archiver.flush(timeout_s=SOON_S) and archiver.behind == 0
    assert archived(place) == everything(log, 30)
    hand_over(archiver, log, 30, 80)
    assert archiver.behind == 50, "too young for a roll"
    archiver.close()
    assert archived(place) == everything(log, 80), "a stop in order leaves nothing behind"


def test_its_thread_works_when_nobody_else_would(log: LmdbLog, tmp_path: Path) -> None:
    nice = list[int]()
    note = lambda point: nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))  # noqa: E731
    archiver = Archiver(LocalPlace(tmp_path / "archive", shared=True), log, clock_ms=lambda: 0, age_ms=0, fault=note)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 80, step=80)
    assert archiver.flush(timeout_s=SOON_S)
    archiver.close()
    assert set(nice) == {os.getpriority(os.PRIO_PROCESS, 0) + NICENESS}


def test_rolls_are_written_by_their_age(log: LmdbLog, tmp_path: Path) -> None:
    written = threading.Event()
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = Archiver(place, log, clock_ms=lambda: 0, age_ms=0, fault=lambda point: written.set() if point == "after archive" else None)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 80, step=80)
    assert written.wait(SOON_S)
    assert archived(place) == everything(log, 80)
    archiver.close()


def test_what_lies_between_the_files_and_the_watermark_is_read_from_the_log_first(log: LmdbLog, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "archive", shared=True)
    killed = started(place, log)
    killed.claimed(0, incarnation=0, watermark=0)
    hand_over(killed, log, 0, 20)
    assert killed.flush(timeout_s=SOON_S)
    hand_over(killed, log, 20, 50)
    heir = started(place, log)
    heir.claimed(0, incarnation=0, watermark=50)
    hand_over(heir, log, 50, 70)
    assert heir.flush(timeout_s=SOON_S)
    assert archived(place) == everything(log, 70)
    killed.close()
    heir.close()
    assert len(Archive(place, read_only=True).parts()) > 2, "what the first still had in memory came again"
    assert archived(place) == everything(log, 70), "and counts once"


def test_a_claim_below_what_is_archived_adds_nothing_twice(log: LmdbLog, tmp_path: Path) -> None:
    """A state that lost its last second applies it again."""
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 40)
    assert archiver.flush(timeout_s=SOON_S)
    archiver.claimed(0, incarnation=0, watermark=25)
    hand_over(archiver, log, 25, 60)
    archiver.close()
    assert archived(place) == everything(log, 60)


def test_what_the_thread_cannot_keep_up_with_is_read_from_the_log(log: LmdbLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDED_EVENTS_MAX", 5)
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 80, step=20)
    assert archiver.flush(timeout_s=SOON_S)
    assert archived(place) == everything(log, 80)
    archiver.close()


def test_the_largest_partition_is_written_when_too_much_waits(log: LmdbLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 1)
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 40, step=40)
    wait_until(lambda: len(Archive(place, read_only=True).parts()) == 1, seconds=SOON_S)
    hand_over(archiver, log, 40, 80, step=40)
    archiver.close()
    assert len(Archive(place, read_only=True).parts()) == 2
    assert archived(place) == everything(log, 80)


def test_a_store_that_is_away_is_tried_again_and_loses_nothing(log: LmdbLog, tmp_path: Path) -> None:
    place = Failing(tmp_path / "archive", failures=3)
    archiver = started(place, log, age_ms=0)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 80)
    assert place.refused.wait(SOON_S)
    assert archiver.flush(timeout_s=SOON_S)
    assert archived(place) == everything(log, 80)
    archiver.close()


def test_a_store_that_stays_away_holds_up_no_stop(log: LmdbLog, tmp_path: Path) -> None:
    place = Failing(tmp_path / "archive", failures=1 << 30)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=0)
    hand_over(archiver, log, 0, 80)
    archiver.close()
    assert (archiver.behind, archived(place)) == (80, "[]")


def test_a_log_that_does_not_go_on_where_the_files_end_ends_the_worker(log: LmdbLog, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "archive", shared=True)
    former = started(place, log)
    former.claimed(0, incarnation=0, watermark=20)
    assert former.flush(timeout_s=SOON_S)
    former.close()
    log.truncate(EVENTS, 30)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=40)
    with pytest.raises(Gap, match=r"ends at offset 20, the log holds 30\.\.80"):
        archiver.flush(timeout_s=SOON_S)
    with pytest.raises(Gap):
        archiver.applied(0, decode(between(log, 40, 50)), 50)
    archiver.close()


def test_an_archive_that_begins_late_says_what_it_lacks(log: LmdbLog, tmp_path: Path) -> None:
    log.truncate(EVENTS, 30)
    place = LocalPlace(tmp_path / "archive", shared=True)
    archiver = started(place, log)
    archiver.claimed(0, incarnation=0, watermark=40)
    assert archiver.flush(timeout_s=SOON_S)
    archiver.close()
    assert [(part.first, part.end) for part in Archive(place, read_only=True).parts()] == [(0, 30), (30, 40)]
    assert archived(place) == everything(log, 40)


def test_markers_and_records_without_events_are_no_holes(tmp_path: Path) -> None:
    """A batch may end beyond its last record, and hold none."""
    with LmdbLog(tmp_path / "log") as log:
        log.append(EVENTS, [Entry(0, encode_pack([]), PACK), Entry(0, b"{", JSON), Entry(0, b"hidden"), Entry(0, b"hidden")], now_ms=0)
        place = LocalPlace(tmp_path / "archive", shared=True)
        archiver = started(place, log)
        archiver.claimed(0, incarnation=0, watermark=0)
        archiver.applied(0, decode(between(log, 0, 2)), 3)
        archiver.applied(0, decode([]), 4)
        assert archiver.flush(timeout_s=SOON_S)
        assert archived(place) == everything(log, 2)
        archiver.close()


def test_a_topic_made_anew_has_rows_of_its_own_life(log: LmdbLog, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "archive", shared=True)
    for incarnation in (0, 1):
        archiver = started(place, log)
        archiver.claimed(0, incarnation=incarnation, watermark=0)
        hand_over(archiver, log, 0, 10)
        archiver.close()
    assert [(part.incarnation, part.first, part.end) for part in Archive(place, read_only=True).parts()] == [(0, 0, 10), (1, 0, 10)]
