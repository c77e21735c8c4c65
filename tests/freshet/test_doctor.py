"""Doctor: each thing freshet stands on is found fine or wrong, and what is wrong comes with what to do."""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from freshet.engine import Engine
from freshet.operators import doctor
from freshet.operators.doctor import Finding, examine
from freshet.settings import Settings
from storage.models import Registry, Version
from stream.events import Event
from tests.freshet.running import free_port

NOW_MS = 1_800_000_000_000


def findings(settings: Settings, url: str | None = None) -> dict[str, Finding]:
    """By what was looked at; whatever is wrong says what to do."""
    found = {one.what: one for one in examine(settings, url)}
    assert all(one.do for one in found.values() if not one.fine)
    assert all(one.found for one in found.values())
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(data=tmp_path / "data", port=free_port())
    with Engine(made) as engine:
        events = [Event(user_id="u1", item_id=f"i{n}", action="like", ts_ms=NOW_MS + n) for n in range(50)]
        engine.append_events([msgspec.json.encode(event) for event in events], now_ms=NOW_MS)
        engine.drain(now_ms=NOW_MS)
    return made


def test_a_sound_folder_is_fine_in_every_respect(settings: Settings) -> None:
    found = findings(settings)
    assert list(found) == ["python", "libraries", "clock", "data folder", "free space", "state", "archive", "models", "port"]
    wrong = [one for one in found.values() if not one.fine and one.what != "free space"]  # the disk is the machine's
    assert not wrong
    assert found["state"].found == "50 accepted, 0 dead letters, 0 misrouted, lag 0"
    assert found["archive"].found == "50 rows in 1 files, all readable"
    assert found["models"].found == "live: none yet; 0 versions whole"
    assert "torch" in found["libraries"].found


def test_a_folder_that_is_not_there_is_no_trouble_and_is_not_made(tmp_path: Path) -> None:
    found = findings(Settings(data=tmp_path / "deep" / "new", port=free_port()))
    assert found["data folder"].fine
    assert "will be made" in found["data folder"].found
    assert found["state"].found == "nothing there yet"
    assert not (tmp_path / "deep").exists()


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    found = findings(Settings(data=tmp_path / "data", port=free_port()))
    assert not found["data folder"].fine
    assert "--data" in found["data folder"].do
    assert not found["state"].fine


def test_a_port_that_is_taken_is_told(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", settings.port))
        holder.listen()
        port = findings(settings)["port"]
        assert not port.fine
        assert "--port" in port.do


def test_a_port_taken_by_somebody_else_is_not_excused_by_what_a_killed_server_left(settings: Settings) -> None:
    (settings.data / "server.json").write_text(f'{{"url":"http://127.0.0.1:{free_port()}","pid":1}}')
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", settings.port))
        holder.listen()
        assert not findings(settings)["port"].fine
        with Engine(settings):
            assert findings(settings)["port"].fine, "a server holds the folder, and the port is its own"


def test_many_refusals_are_told_with_where_to_look(settings: Settings) -> None:
    with Engine(settings) as engine:
        engine.append_events([b"not json"] * 30, now_ms=NOW_MS)
        engine.drain(now_ms=NOW_MS)
    state = findings(settings)["state"]
    assert not state.fine
    assert "30 dead letters" in state.found
    assert "freshet lag" in state.do


def test_a_flipped_bit_in_the_archive_is_told_with_the_file(settings: Settings) -> None:
    (part,) = (settings.data / "archive").glob("*.parquet")
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(body)
    archive = findings(settings)["archive"]
    assert not archive.fine
    assert part.name in archive.found


def test_a_damaged_model_version_is_told(settings: Settings) -> None:
    Registry(settings.data / "models").put(Version("g1-1", 1, None, NOW_MS, 10, {}), {"model.bin": b"x" * 100})
    assert findings(settings)["models"].found == "live: none yet; 1 versions whole"
    (file,) = (settings.data / "models").rglob("model.bin")
    file.write_bytes(b"y" * 100)
    models = findings(settings)["models"]
    assert not models.fine
    assert "g1-1" in models.found


def test_a_folder_held_by_no_server_and_a_server_that_does_not_answer_are_told(settings: Settings) -> None:
    with Engine(settings):
        held = findings(settings)["server"]
    assert not held.fine
    assert "in use by a process that is no server" in held.found
    silent = findings(settings, f"http://127.0.0.1:{free_port()}")["server"]
    assert not silent.fine
    assert "does not answer" in silent.found
    assert "freshet serve" in silent.do


def test_other_bounds_than_the_state_was_built_with_are_told(settings: Settings) -> None:
    state = findings(settings.model_copy(update={"partitions": 4}))["state"]
    assert not state.fine
    assert "partitions" in state.found


@pytest.fixture
def _little_of_everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1 << 60)
    monkeypatch.setattr(doctor, "CLOCK_MIN_MS", 1 << 50)
    monkeypatch.setattr(doctor, "LIBRARIES", ("numpy", "no-such-library"))
    yield


@pytest.mark.usefixtures("_little_of_everything")
def test_missing_libraries_a_wrong_clock_and_little_space_are_told(settings: Settings) -> None:
    found = findings(settings)
    assert "no-such-library" in found["libraries"].do
    assert not found["clock"].fine
    assert not found["free space"].fine
