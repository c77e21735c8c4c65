"""Verify tells a sound state from a touched one, rebuild mends it, and a gap is given up only on record."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from freshet.engine import Engine, FolderBusy
from freshet.operators.verifying import LOSSES_FILE, Loss, accept_gap, rebuild_folder, verify_folder
from freshet.settings import Settings
from storage.log import Entry
from storage.log_lmdb import LmdbLog
from storage.state import COUNTS, HISTORIES, NEIGHBOURS, SEEN, Gap, Write
from storage.state_lmdb import LmdbState, boot_id
from stream.events import Event
from stream.ingest import EVENTS

NOW_MS = 1_800_000_000_000


def quiet(_: int) -> None:
    """A progress bar that nobody looks at."""


def fill(folder: Path, events: int = 200, *, first: int = 0) -> Settings:
    settings = Settings(data=folder)
    with Engine(settings) as engine:
        made = [
            Event(event_id=f"e{n}", user_id=f"u{n % 9}", item_id=f"i{n % 31}", action="like", ts_ms=NOW_MS + n)
            for n in range(first, first + events)
        ]
        engine.append_events([msgspec.json.encode(event) for event in made], now_ms=NOW_MS + first)
        engine.drain(now_ms=NOW_MS + first)
    return settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield fill(tmp_path / "data")


def test_a_sound_state_is_equal_to_its_replay(settings: Settings) -> None:
    moves: list[int] = []
    found = verify_folder(settings, None, moves.append)
    assert found.live == found.replay
    assert found.below == sum(moves) == 200


def test_an_empty_folder_is_equal_too(tmp_path: Path) -> None:
    found = verify_folder(Settings(data=tmp_path / "new"), None, quiet)
    assert (found.live, found.below) == (found.replay, 0)


@pytest.mark.parametrize("table", [HISTORIES, SEEN, COUNTS, NEIGHBOURS])
def test_one_changed_byte_is_told_and_a_rebuild_mends_it(settings: Settings, table: str) -> None:
    before = verify_folder(settings, None, quiet)
    state = LmdbState(settings.data / "state", boot_id=boot_id())
    node, blob = next(iter(state.scan(table, 0)))
    state.commit([], [Write(table, 0, np.array([node], dtype=np.uint64), [bytes([blob[0] ^ 1, *blob[1:]])])])
    state.close()
    found = verify_folder(settings, None, quiet)
    assert found.live != found.replay
    assert found.replay == before.replay, "the log says what it said"
    assert rebuild_folder(settings, quiet) == 200
    mended = verify_folder(settings, None, quiet)
    assert (mended.live, mended.replay, mended.below) == (before.live, before.live, 200)


def test_a_folder_in_use_is_neither_rebuilt_nor_accepted(settings: Settings) -> None:
    with Engine(settings):
        with pytest.raises(FolderBusy, match="in use by process"):
            rebuild_folder(settings, quiet)
        with pytest.raises(FolderBusy, match="in use by process"):
            accept_gap(settings)


def test_where_there_is_no_gap_nothing_is_accepted(settings: Settings) -> None:
    assert accept_gap(settings) == []
    assert not (settings.data / LOSSES_FILE).exists()


def lose_thirty(settings: Settings) -> None:
    """The log was emptied beyond what the state has: as after a restored state, or a retention that was too short."""
    late = Entry(0, msgspec.json.encode(Event(user_id="u1", item_id="i1", action="like", ts_ms=NOW_MS)))
    with LmdbLog(settings.data / "log", partitions=1, log_bytes_max=settings.log_bytes_max) as log:
        log.append(EVENTS, [late] * 50, now_ms=NOW_MS)
        log.truncate(EVENTS, 230)


def test_events_that_are_gone_stop_the_start_and_are_given_up_on_record(settings: Settings) -> None:
    lose_thirty(settings)
    with pytest.raises(Gap, match="gap accept"):
        Engine(settings)
    losses = accept_gap(settings)
    with LmdbLog(settings.data / "log", read_only=True) as log:
        assert losses == [Loss(0, 200, 230, log.topic(EVENTS).id)]
    lines = (settings.data / LOSSES_FILE).read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Loss) for line in lines] == losses
    assert accept_gap(settings) == [], "a gap is accepted once"


def test_once_the_gap_is_accepted_the_folder_opens_and_goes_on(settings: Settings) -> None:
    lose_thirty(settings)
    accept_gap(settings)
    with Engine(settings) as engine:
        engine.drain(now_ms=NOW_MS)
        assert engine.applied_number == 250
        assert engine.lag == 0
    found = verify_folder(settings, None, quiet)
    assert found.live == found.replay
