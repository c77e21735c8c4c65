"""`freshet dead-letters` and `freshet replay` over a data folder, as a person runs them."""

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from freshet.commands.cli import app
from freshet.engine import Engine
from freshet.operators.redrive import REDRIVEN_FILE, FolderBox, letters_of
from freshet.settings import Settings
from stream.events import Event

NOW_MS = 1_700_000_000_000
ORIGIN = "events:0:0:1:0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good events, two of an unknown action, one that is no JSON."""
    bodies = [msgspec.json.encode(Event(user_id="u", item_id=f"i{n}", action="view", ts_ms=NOW_MS + n)) for n in range(4)]
    bodies[1] = bodies[1].replace(b"view", b"teleport")
    bodies[3] = bodies[3].replace(b"view", b"levitate")
    with Engine(Settings(data=tmp_path / "data")) as engine:
        engine.append_events([*bodies, b"{"], now_ms=NOW_MS)
        engine.drain(now_ms=NOW_MS)
    return tmp_path / "data"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tallies(folder: Path) -> tuple[int, int, int]:
    with Engine(Settings(data=folder)) as engine:
        found = engine.tallies
        return found.accepted, found.duplicates, sum(found.dead_letters.values())


def test_what_was_refused_is_listed_and_shown(folder: Path) -> None:
    listed = json.loads(run("dead-letters", "list", "--data", folder, "--json").output)
    assert [row["origin"] for row in listed["newest"]] == [ORIGIN, "events:0:0:3:0", "events:0:0:4:0"]
    assert sum(listed["kinds"].values()) == 3 and not any(row["redriven"] for row in listed["newest"])
    only = json.loads(run("dead-letters", "list", "--data", folder, "--reason", "unreadable", "--last", 5, "--json").output)
    assert [row["origin"] for row in only["newest"]] == ["events:0:0:4:0"]
    assert "3 dead letters" in run("dead-letters", "list", "--data", folder).output
    shown = run("dead-letters", "show", ORIGIN, "--data", folder)
    assert shown.exit_code == 0 and "reason: unknown action" in shown.output and "teleport" in shown.output
    assert run("dead-letters", "show", "events:9:9:9:9", "--data", folder).exit_code == 1


def test_a_dry_run_changes_nothing_and_a_redrive_is_done_once(folder: Path) -> None:
    asked = ["dead-letters", "redrive", "--reason", "unknown action", "--edit", "action=like", "--data", folder]
    assert "2 would be redriven" in run(*asked, "--dry-run").output and tallies(folder) == (2, 0, 3)
    assert "2 redriven, 0 stay" in run(*asked).output and tallies(folder) == (4, 0, 3)
    assert "0 redriven, 0 stay" in run(*asked).output
    (folder / REDRIVEN_FILE).write_bytes(b'{"torn')
    assert "2 redriven" in run(*asked).output and tallies(folder) == (6, 2, 3), "the ids tell"


def test_what_would_be_refused_again_stays_with_its_reason(folder: Path) -> None:
    said = run("dead-letters", "redrive", ORIGIN, "--data", folder)
    assert "refused again: unknown action" in said.output and "0 redriven, 1 stay" in said.output
    assert tallies(folder) == (2, 0, 3)


def test_a_record_may_be_given_whole_in_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_bytes(msgspec.json.encode(Event(user_id="u", item_id="i9", action="view", ts_ms=NOW_MS)))
    said = run("dead-letters", "redrive", "--reason", "unreadable", "--edit", tmp_path / "whole.json", "--data", folder)
    assert "1 redriven" in said.output and tallies(folder) == (3, 0, 3)


@pytest.mark.parametrize("edit", ["planet=x", "nofile.json", "ts_ms=soon"])
def test_an_edit_that_is_none_is_refused(folder: Path, edit: str) -> None:
    assert run("dead-letters", "redrive", "--reason", "unknown action", "--edit", edit, "--data", folder).exit_code == 2


def test_all_at_once_must_be_asked_for(folder: Path) -> None:
    assert run("dead-letters", "redrive", "--data", folder).exit_code == 2


def test_a_folder_without_a_log_has_no_letters(tmp_path: Path) -> None:
    with letters_of(Settings(data=tmp_path / "new"), None) as (box, _):
        assert isinstance(box, FolderBox) and list(box.letters()) == []


def test_a_replay_prints_digests_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    first, second = run("replay", "--data", folder), run("replay", "--data", folder)
    assert first.exit_code == 0 and first.output == second.output and "partition 0 up to 5: " in first.output
    assert isinstance(run("replay", "--data", tmp_path / "new").exception, FileNotFoundError)
