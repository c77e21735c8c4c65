"""The archive of several workers: every record of the log is in it once, whatever is killed, paused or moved meanwhile."""

import random
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bench.services import wait_until
from storage.archive import Archive
from storage.columns import ARCHIVE_SCHEMA
from storage.places import place_of
from stream.archiving import archive_rows
from stream.ingest import EVENTS
from stream.wire import decode
from tests.cluster.installation import Site
from tests.stream.event_logs import make_messages

KILLED = -signal.SIGKILL
SOON_S = 60.0


def fill(site: Site, *, seed: int, messages: int) -> None:
    site.fill(make_messages(random.Random(seed), site.shape, count=messages))


def complete(site: Site, folder: Path) -> bool:
    archive = Archive(place_of(str(folder)), read_only=True)
    return all(archive.published(n) == site.log.end_offset(EVENTS, n) for n in range(site.shape.partitions))


def archive_by_one_more(site: Site, folder: Path) -> None:
    """A worker that is not disturbed, until the files are complete; it is then stopped in order."""
    worker = site.start(archive=str(folder))
    wait_until(lambda: complete(site, folder), seconds=SOON_S, alive=lambda: worker.poll() is None)
    site.wait_applied()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0, "a worker stops in order"


def assert_each_record_once(site: Site, folder: Path) -> None:
    """The rows are just those the log gives, partition by partition."""
    rows = pa.concat_tables([ARCHIVE_SCHEMA.empty_table(), *Archive(place_of(str(folder)), read_only=True).scan()])
    for partition in range(site.shape.partitions):
        records = site.log.read(EVENTS, partition, 0, records_max=100_000)
        wanted = pa.Table.from_batches([archive_rows(decode(records))]).to_pylist()
        found = rows.filter(pc.equal(rows.column("partition"), partition)).to_pylist()
        assert repr(found) == repr(wanted), f"partition {partition}"


@pytest.mark.parametrize("point", ["before archive", "after archive", "after commit"])
def test_a_killed_workers_records_are_archived_by_the_next(point: str, site: Site, tmp_path: Path) -> None:
    fill(site, seed=3, messages=3000)
    assert site.start(archive=str(tmp_path), age_ms=0, point=point).wait(timeout=60) == KILLED
    fill(site, seed=4, messages=100)
    archive_by_one_more(site, tmp_path)
    assert_each_record_once(site, tmp_path)


def test_partitions_that_move_and_a_worker_that_dies(wide: Site, tmp_path: Path) -> None:
    fill(wide, seed=5, messages=3000)
    first = wide.start(archive=str(tmp_path))
    wait_until(lambda: any(wide.state.watermarks(EVENTS).values()), seconds=30)
    wide.start(archive=str(tmp_path))
    wait_until(lambda: wide.epochs(EVENTS) > wide.shape.partitions, seconds=30)
    fill(wide, seed=6, messages=300)
    first.kill()
    first.wait()
    wait_until(lambda: complete(wide, tmp_path), seconds=SOON_S)
    assert_each_record_once(wide, tmp_path)


def test_a_worker_that_was_paused_writes_what_it_had_and_nothing_counts_twice(site: Site, tmp_path: Path) -> None:
    fill(site, seed=7, messages=1500)
    sleeper = site.start(archive=str(tmp_path), pause="before archive")
    wait_until(lambda: site.stopped(sleeper), seconds=SOON_S)
    fill(site, seed=8, messages=100)
    archive_by_one_more(site, tmp_path)
    assert_each_record_once(site, tmp_path)
    claimed = site.epochs(EVENTS)
    sleeper.send_signal(signal.SIGCONT)
    wait_until(lambda: site.epochs(EVENTS) > claimed, seconds=SOON_S, alive=lambda: sleeper.poll() is None)
    sleeper.send_signal(signal.SIGTERM)
    assert sleeper.wait(timeout=15) == 0, "it goes on as one worker among others"
    assert_each_record_once(site, tmp_path)
