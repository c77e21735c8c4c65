"""The embedded engine over its whole life: opened, killed, distrusted, trimmed, rebuilt, and the same state each time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec
import pytest

import freshet.engine
import storage.places
from freshet.engine import Engine, FolderBusy
from freshet.settings import Settings
from storage.files import DiskFull
from storage.ids import USER, hash_id
from storage.log import PACK, Entry, LogFull
from storage.state import Gap, ShapeChanged
from stream.events import Entity, Event
from stream.ingest import EVENTS, Tally
from stream.replay import digests, history, replay
from stream.routing import partition_of
from stream.shape import Shape
from stream.wire import encode_event, encode_pack
from tests.stream.event_logs import APPEND_MS, fill, make_messages

ROOT = Path(__file__).parents[2]


def at(folder: Path, *, partitions: int = 1, log_bytes_max: int = 1 << 26) -> Settings:
    return Settings(data=folder, partitions=partitions, log_bytes_max=log_bytes_max, state_bytes_max=1 << 28)


def body(number: int, user: str = "u", **more: object) -> bytes:
    event = {"user_id": user, "action": "view", "item_id": f"i{number % 7}", "ts_ms": 1000 + number, "event_id": f"e{number}", **more}
    return msgspec.json.encode(event)


def entity(title: str, **more: object) -> bytes:
    return msgspec.json.encode(msgspec.convert({"kind": "item", "id": "i1", "title": title, **more}, Entity))


def digest_of(engine: Engine) -> str:
    return digests(engine.state, engine.shape.partitions)


def replayed(engine: Engine) -> str:
    return digests(replay(history(engine.archive, engine.log), engine.log, engine.shape), engine.shape.partitions)


def titles(engine: Engine) -> dict[str, tuple[str, bool]]:
    catalogue = engine.view.catalogue
    return {catalogue.name(row): (catalogue.content(row).title, bool(catalogue.deleted[row])) for row in range(len(catalogue))}


def lived_in(folder: Path, *, partitions: int = 1) -> tuple[str, Tally, dict[str, tuple[str, bool]]]:
    """A folder with everything that goes wrong in it, applied and closed; its digest, tallies and titles."""
    shape = Shape(partitions=partitions)
    with Engine(at(folder, partitions=partitions)) as engine:
        fill(engine.log, make_messages(random.Random(3), shape, count=120))
        engine.append_entities([entity("old"), b"{", entity("new"), entity("gone", id="i2", deleted=True)], now_ms=APPEND_MS)
        engine.drain(now_ms=APPEND_MS)
        return digest_of(engine), engine.tallies, titles(engine)


def another_boot(folder: Path) -> None:
    """Leave the state as a machine that went down leaves it: open, under the id of that boot."""
    env = lmdb.open(str(folder / "state"), map_size=1 << 28, max_dbs=20)
    with env.begin(write=True) as txn:
        txn.put(b"boot", b"the boot before", db=env.open_db(b"meta", txn=txn))
    env.close()


def test_what_is_appended_is_applied_seen_and_archived(tmp_path: Path) -> None:
    with Engine(at(tmp_path)) as engine:
        positions = engine.append_events([body(n) for n in range(5)], now_ms=APPEND_MS)
        assert [position.offset for position in positions] == [0, 1, 2, 3, 4]
        assert (engine.lag, engine.applied_number, engine.archive_lag) == (5, 0, 0)
        assert engine.partition_lags() == [{"partition": 0, "watermark": 0, "end": 5, "lag": 5}]
        assert engine.pump(now_ms=APPEND_MS, records_max=2).events == 2
        assert (engine.lag, engine.applied_number, engine.archive_lag) == (3, 2, 2)
        assert engine.drain(now_ms=APPEND_MS) == 3
        assert engine.pump(now_ms=APPEND_MS).applied == ()
        assert engine.view.progress.as_of.number == 4
        assert len(engine.view.histories.read(hash_id("u", USER), 0)) == 5
        engine.flush_archive()
        assert engine.archive_lag == 0


def test_events_land_with_their_users(tmp_path: Path) -> None:
    with Engine(at(tmp_path, partitions=3)) as engine:
        bodies = [body(n, f"user {n}") for n in range(30)]
        positions = engine.append_events([*bodies, b"{"], now_ms=APPEND_MS)
        assert [position.partition for position in positions] == [*(partition_of(f"user {n}", 3) for n in range(30)), 0]
        engine.drain(now_ms=APPEND_MS)
        assert (engine.tallies.accepted, engine.tallies.dead_letters) == (30, {"unreadable event": 1})
        assert [row["lag"] for row in engine.partition_lags()] == [0, 0, 0]


def test_a_second_opening_names_the_holder_and_the_ways_out(tmp_path: Path) -> None:
    with Engine(at(tmp_path)), pytest.raises(FolderBusy, match=rf"in use by process {os.getpid()}: stop it, .*--url.*--data"):
        Engine(at(tmp_path))
    Engine(at(tmp_path)).close()


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    with Engine(at(tmp_path)) as engine:
        engine.close()
    with Engine(at(tmp_path)) as again:
        assert again.lag == 0, "the folder is free, and opens as it was"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.freshet.test_engine import APPEND_MS, Engine, at, body, entity
engine = Engine(at(Path(sys.argv[1]), partitions=3))
engine.append_entities([entity("before")], now_ms=APPEND_MS)
engine.append_events([body(n, f"user {n % 9}") for n in range(60)] + [b"{"], now_ms=APPEND_MS)
engine.pump(now_ms=APPEND_MS, records_max=40)
engine.append_entities([entity("after")], now_ms=APPEND_MS)
print(engine.applied_number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_engine_continues_at_its_watermark_and_the_archive_catches_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "40\n"), killed.stderr
    with Engine(at(tmp_path, partitions=3)) as engine:
        assert not engine.state.distrusted
        assert (engine.applied_number, engine.lag, engine.tallies.accepted) == (40, 21, 40)
        assert (titles(engine)["i1"], engine.archive.published(0)) == (("before", False), 0)
        assert engine.drain(now_ms=APPEND_MS) == 20
        assert (engine.tallies.accepted, engine.tallies.duplicates, engine.tallies.dead_letters) == (60, 0, {"unreadable event": 1})
        assert titles(engine)["i1"] == ("after", False)
        engine.flush_archive()
        assert sum(table.num_rows for table in engine.archive.scan()) == 61
        assert digest_of(engine) == replayed(engine)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_state_of_another_boot_is_rebuilt_with_the_same_digest(partitions: int, tmp_path: Path) -> None:
    before = lived_in(tmp_path, partitions=partitions)
    another_boot(tmp_path)
    with Engine(at(tmp_path, partitions=partitions)) as engine:
        assert engine.state.distrusted
        assert (digest_of(engine), engine.tallies, titles(engine)) == before
        assert (engine.lag, engine.pump(now_ms=APPEND_MS).entities) == (0, 0), "nothing is left to do"
    with Engine(at(tmp_path, partitions=partitions)) as engine:
        assert not engine.state.distrusted


def test_a_clean_close_is_trusted_after_any_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lived_in(tmp_path)
    monkeypatch.setattr(freshet.engine, "boot_id", lambda: "the boot after")
    with Engine(at(tmp_path)) as engine:
        assert not engine.state.distrusted


def test_a_rebuild_on_request_tells_its_events_and_comes_to_the_same(tmp_path: Path) -> None:
    before = lived_in(tmp_path, partitions=3)
    told: list[int] = []
    with Engine(at(tmp_path, partitions=3), rebuild=told.append) as engine:
        assert (digest_of(engine), engine.tallies, titles(engine)) == before
        assert sum(told) >= engine.tallies.accepted


def trimmed(folder: Path, last: Callable[[Engine], object] = lambda engine: None) -> str:
    """A folder whose log forgot what the archive has, `last` appended before; its digest."""
    with Engine(at(folder, log_bytes_max=1 << 20)) as engine:
        assert engine.trim_log() == 0, "it is not half full"
        number = 0
        while engine.log.used_bytes() * 2 < 1 << 20:
            engine.append_events([body(n, f"user {n % 5}", query="x" * 500) for n in range(number, number + 50)], now_ms=APPEND_MS)
            number += 50
        last(engine)
        engine.drain(now_ms=APPEND_MS)
        before = digest_of(engine)
        assert engine.trim_log() >= number
        assert engine.log.first_offset(EVENTS, 0) == engine.log.end_offset(EVENTS, 0)
        assert (engine.archive_lag, engine.lag) == (0, 0)
        return before


def test_after_a_trim_a_rebuild_comes_to_the_same_and_appends_go_on(tmp_path: Path) -> None:
    before = trimmed(tmp_path)
    with Engine(at(tmp_path, log_bytes_max=1 << 20), rebuild=lambda n: None) as engine:
        assert digest_of(engine) == before
        engine.append_events([body(10_000)], now_ms=APPEND_MS)
        assert engine.drain(now_ms=APPEND_MS) == 1
        assert digest_of(engine) == replayed(engine) != before


def test_a_pack_without_events_before_a_trim_is_no_gap(tmp_path: Path) -> None:
    before = trimmed(tmp_path, lambda engine: engine.append_events([encode_pack([])], now_ms=APPEND_MS, form=PACK))
    for rebuild in (None, lambda n: None):
        with Engine(at(tmp_path, log_bytes_max=1 << 20), rebuild=rebuild) as engine:
            assert digest_of(engine) == before


def test_a_lost_archive_is_a_gap_that_costs_the_state_nothing(tmp_path: Path) -> None:
    before = trimmed(tmp_path)
    (tmp_path / "archive").rename(tmp_path / "mislaid")
    for rebuild in (None, lambda n: None):
        with pytest.raises(Gap, match="restore the archive folder"):
            Engine(at(tmp_path, log_bytes_max=1 << 20), rebuild=rebuild)
    shutil.rmtree(tmp_path / "archive")
    (tmp_path / "mislaid").rename(tmp_path / "archive")
    with Engine(at(tmp_path, log_bytes_max=1 << 20)) as engine:
        assert digest_of(engine) == before


def test_the_archive_catches_up_with_what_it_never_got(tmp_path: Path) -> None:
    before, _, _ = lived_in(tmp_path, partitions=3)
    shutil.rmtree(tmp_path / "archive")
    with Engine(at(tmp_path, partitions=3)) as engine:
        engine.flush_archive()
        assert engine.archive_lag == 0
        assert replayed(engine) == before == digest_of(engine)


def test_another_shape_is_refused_and_the_folder_is_free_again(tmp_path: Path) -> None:
    before, _, _ = lived_in(tmp_path)
    other = Shape(history_max=16)
    with pytest.raises(ShapeChanged, match=r"history_max.*freshet rebuild"):
        Engine(at(tmp_path), other)
    with Engine(at(tmp_path)) as engine:
        assert digest_of(engine) == before
    with Engine(at(tmp_path), other, rebuild=lambda n: None) as engine:
        assert digest_of(engine) == replayed(engine) != before
    with Engine(at(tmp_path), other) as engine:
        assert engine.lag == 0


def test_tallies_survive_a_restart(tmp_path: Path) -> None:
    _, before, _ = lived_in(tmp_path, partitions=3)
    with Engine(at(tmp_path, partitions=3)) as engine:
        assert engine.tallies == before
        assert before.accepted and before.duplicates and sum(before.dead_letters.values())


def test_a_full_log_refuses_and_everything_stays_readable(tmp_path: Path) -> None:
    with Engine(at(tmp_path, log_bytes_max=1 << 20)) as engine:
        appended = 0
        with pytest.raises(LogFull, match="log_bytes_max"):
            for number in range(100_000):
                appended += len(engine.append_events([body(number, query="x" * 4000)] * 20, now_ms=APPEND_MS))
        with pytest.raises(LogFull):
            engine.append_entities([entity("t", text="x" * 10_000)] * 10, now_ms=APPEND_MS)
        assert engine.drain(now_ms=APPEND_MS) == appended
        assert engine.view.catalogue.row(engine.view.catalogue.ids[0].item()) == 0
        assert digest_of(engine) == replayed(engine)
        assert engine.trim_log() == appended
        assert engine.append_events([body(1)], now_ms=APPEND_MS), "and there is room again"
    with Engine(at(tmp_path, log_bytes_max=1 << 20)) as engine:
        assert engine.drain(now_ms=APPEND_MS) == 1


def test_a_full_disk_at_the_close_still_releases_the_folder_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise DiskFull(path)

    engine = Engine(at(tmp_path))
    engine.append_events([body(n) for n in range(4)], now_ms=APPEND_MS)
    engine.drain(now_ms=APPEND_MS)
    with monkeypatch.context() as patch:
        patch.setattr(storage.places, "write_file", full)
        with pytest.raises(DiskFull):
            engine.close()
    with Engine(at(tmp_path)) as again:
        again.flush_archive()
        assert sum(table.num_rows for table in again.archive.scan()) == 4


def test_a_log_that_is_not_the_one_that_was_read_is_a_gap(tmp_path: Path) -> None:
    lived_in(tmp_path)
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(Gap, match="freshet rebuild"):
        Engine(at(tmp_path))


def test_dead_letters_of_a_rebuild_are_those_sent_before(tmp_path: Path) -> None:
    with Engine(at(tmp_path)) as engine:
        engine.log.append(EVENTS, [Entry(0, encode_event(Event(user_id="u", action="levitate", ts_ms=1)))], now_ms=APPEND_MS)
        engine.drain(now_ms=APPEND_MS)
        sent = engine.log.end_offset("dead-letters", 0)
    with Engine(at(tmp_path), rebuild=lambda n: None) as engine:
        assert engine.log.end_offset("dead-letters", 0) == sent == 1
        assert json.loads(engine.log.read("dead-letters", 0, 0)[0].value)["topic"] == EVENTS
