"""The command line as a person meets it: help, exit codes, and errors of one line that say what to do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from freshet.commands import cli
from freshet.engine import Engine
from freshet.settings import Settings
from storage.log import Entry
from storage.log_lmdb import LmdbLog
from storage.state import COUNTS, Write
from storage.state_lmdb import LmdbState, boot_id
from stream.events import Event
from stream.ingest import EVENTS
from tests.freshet.running import Running, free_port, server

ROOT = Path(__file__).parents[2]
NEVER = 10**9
COMMANDS = ("serve", "produce", "recommend", "lag", "verify", "rebuild", "gap", "doctor", "models", "world", "demo")
GOOD = "".join(f"u{n % 7}\ti{n % 23}\t5\t{881250949 + n}\n" for n in range(140))


class Said:
    """What a command answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`freshet ...` in this process, as its entry point runs it, from an empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["freshet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def filled(tmp_path: Path, run: Run) -> Path:
    """A folder with 140 events in it."""
    (tmp_path / "u.data").write_text(GOOD)
    assert run("produce", tmp_path / "u.data", "--data", tmp_path / "data").code == 0
    return tmp_path / "data"


def one_error(said: Said, words: str, *, code: int = 1) -> None:
    """Exit code, one error that holds these words, and no traceback."""
    assert said.code == code, said.err
    assert words in said.err
    assert "Traceback" not in said.err + said.out
    assert said.err.count("error: ") == 1


def test_help_lists_every_command_with_what_it_does(run: Run) -> None:
    said = run("--help")
    assert said.code == 0
    for name in COMMANDS:
        lines = [line for line in said.out.splitlines() if name in line.split()[:3]]
        assert lines, name
        assert len(lines[0].split()) > 5, f"{name} is listed without a word"


@pytest.mark.parametrize("name", [*COMMANDS, "gap accept", "models list", "models roll-back"])
def test_every_command_has_help_and_says_what_it_takes(run: Run, name: str) -> None:
    said = run(*name.split(), "--help")
    assert said.code == 0
    assert "Usage: " in said.out
    sentence = said.out.split("Usage: ")[1].splitlines()[1:]
    assert any(len(line.split()) > 5 for line in sentence)


def test_wrong_arguments_exit_with_2(run: Run) -> None:
    for arguments in (
        ["produce"],
        ["recommend"],
        ["recommend", "u1", "-k", "0"],
        ["fly"],
        ["lag", "--no-such-option"],
        ["demo", "--events", "3"],
    ):
        said = run(*arguments)
        assert said.code == 2, arguments
        assert "Traceback" not in said.err


def test_a_good_file_is_published_whole(tmp_path: Path, run: Run) -> None:
    (tmp_path / "u.data").write_text(GOOD)
    said = run("produce", tmp_path / "u.data", "--data", tmp_path / "data")
    assert (said.code, said.out) == (0, "140 lines: 140 events published, 0 become dead letters (MovieLens u.data)\n")
    status = json.loads(run("lag", "--data", tmp_path / "data", "--json").out)
    assert (status["tallies"]["accepted"], status["tallies"]["dead_letters"], status["lag_records"]) == (140, {}, 0)


@pytest.mark.parametrize(
    "bad", [b"no event at all\n", b"\xff\xfe\x80\n", b"u1\ti1\t5\n", b"\n\n", b"u1\ti1\t5\tyesterday\n", b"u1\ti1\t5\t8812"]
)
def test_bad_lines_become_dead_letters_and_the_rest_goes_on(tmp_path: Path, run: Run, bad: bytes) -> None:
    path = tmp_path / "u.data"
    path.write_bytes(
        GOOD[: len(GOOD) // 2].rsplit("\n", 1)[0].encode() + b"\n" + bad + (b"" if not bad.endswith(b"\n") else b"u1\ti1\t5\t881260000\n")
    )
    said = run("produce", path, "--data", tmp_path / "data")
    assert said.code == 0, said.err
    lines, published, dead = (int(word) for word in said.out.replace(",", "").split() if word.isdigit())
    assert lines == published + dead
    status = json.loads(run("lag", "--data", tmp_path / "data", "--json").out)
    assert status["tallies"]["accepted"] + sum(status["tallies"]["dead_letters"].values()) == lines
    assert status["lag_records"] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n\n", "Understood are"),
        (b"once upon a time there was a file\nand it had no layout\n", "the layout is not known"),
        (bytes(range(256)) * 20, "is binary"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "Understood are"),
        (b"PAR1 but not really", "cannot be read"),
        ("\u00e9t\u00e9 \u00e0 la plage\n".encode("utf-16"), "Understood are"),
        (b'{"kind":"item","id":"i1"}\n', "JSON without a user_id"),
        (b"user_id,item_id,timestamp\n", "a header and no rows"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_before_the_folder_is_touched(
    tmp_path: Path, run: Run, content: bytes, words: str
) -> None:
    (tmp_path / "strange").write_bytes(content)
    one_error(run("produce", tmp_path / "strange", "--data", tmp_path / "data"), words)
    assert not (tmp_path / "data").exists()


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path, run: Run) -> None:
    one_error(run("produce", tmp_path, "--data", tmp_path / "data"), "is a directory")
    one_error(run("produce", tmp_path / "none.csv", "--data", tmp_path / "data"), "there is no such file")
    (tmp_path / "u.data").write_text(GOOD)
    one_error(run("produce", tmp_path / "u.data", "--entities", tmp_path / "none.jsonl", "--data", tmp_path / "data"), "none.jsonl")


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    (tmp_path / "u.data").write_text(GOOD)
    one_error(run("produce", tmp_path / "u.data", "--data", tmp_path / "data"), "data")


def test_recommend_answers_in_words_and_as_json(filled: Path, run: Run) -> None:
    said = run("recommend", "u1", "-k", "3", "--data", filled)
    assert said.code == 0
    assert "as of append" in said.out
    assert "none yet: live counts alone" in said.out
    answer = json.loads(run("recommend", "u1", "-k", "3", "--data", filled, "--json").out)
    assert len(answer["items"]) <= 3
    assert run("recommend", "a stranger", "--data", filled).code == 0


def test_lag_verify_and_doctor_agree_that_all_is_well(filled: Path, run: Run) -> None:
    said = run("lag", "--data", filled)
    assert said.code == 0
    assert "accepted 140 (0 duplicates)" in said.out
    assert "live model: none yet" in said.out
    said = run("verify", "--data", filled)
    assert (said.code, said.out.splitlines()[-1]) == (0, "equal")
    said = run("doctor", "--data", filled)
    wrong = [
        line for line in said.out.splitlines() if line.startswith("wrong") and not line.startswith(("wrong  free space", "wrong  port"))
    ]
    assert not wrong
    assert "ok     archive: 140 rows" in said.out


def test_rebuild_says_how_many_events_it_replayed(filled: Path, run: Run) -> None:
    said = run("rebuild", "--data", filled)
    assert (said.code, said.out) == (0, "rebuilt from 140 events\n")
    assert run("verify", "--data", filled).code == 0


def test_verify_of_a_touched_state_exits_with_1_and_says_what_to_do(filled: Path, run: Run) -> None:
    state = LmdbState(filled / "state", boot_id=boot_id())
    node, blob = next(iter(state.scan(COUNTS, 0)))
    state.commit([], [Write(COUNTS, 0, np.array([node], dtype=np.uint64), [bytes([blob[0] ^ 1]) + blob[1:]])])
    state.close()
    said = run("verify", "--data", filled)
    assert said.code == 1
    assert "freshet rebuild" in said.err
    assert run("rebuild", "--data", filled).code == 0
    assert run("verify", "--data", filled).code == 0


def test_a_gap_stops_the_commands_until_it_is_accepted(filled: Path, run: Run) -> None:
    assert run("gap", "accept", "--data", filled).out == "there is no gap\n"
    with LmdbLog(filled / "log", partitions=1) as log:
        late = Event(user_id="u1", item_id="i1", action="like", ts_ms=1_700_000_000_000)
        end = log.append(EVENTS, [Entry(0, msgspec.json.encode(late)) for _ in range(9)], now_ms=1_800_000_000_000)[-1].offset
        log.truncate(EVENTS, end)
    one_error(run("lag", "--data", filled), "freshet gap accept")
    said = run("gap", "accept", "--data", filled)
    assert said.code == 0
    assert "given up, written down in losses.jsonl" in said.out


@pytest.mark.parametrize(
    ("name", "value", "words"), [("FRESHET_PARTITION", "2", "no such setting: FRESHET_PARTITION"), ("FRESHET_PORT", "x", "port: ")]
)
def test_a_wrong_setting_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    said = run("lag")
    one_error(said, words)
    assert len(said.err.splitlines()) == 1


def test_other_partitions_than_the_folder_has_are_refused(filled: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_PARTITIONS", "4")
    one_error(run("lag", "--data", filled), "partitions")


def test_a_folder_held_by_no_server_is_one_line(filled: Path, run: Run) -> None:
    with Engine(Settings(data=filled)):
        for arguments in (["lag"], ["recommend", "u1"], ["verify"], ["models", "list"], ["models", "roll-back", "--yes"]):
            one_error(run(*arguments, "--data", filled), "in use by a process that is no server")
        for arguments in (["rebuild"], ["gap", "accept"], ["serve"]):
            one_error(run(*arguments, "--data", filled), "in use by process")


def test_a_server_that_does_not_answer_is_one_line(run: Run) -> None:
    for arguments in (["lag"], ["recommend", "u1"], ["verify"]):
        one_error(run(*arguments, "--url", f"http://127.0.0.1:{free_port()}"), "is `freshet serve` running there?")
    one_error(run("lag", "--url", "not a url"), "not a url")


def test_a_world_is_written_and_can_be_produced(tmp_path: Path, run: Run) -> None:
    said = run("world", tmp_path / "w", "--users", "20", "--items", "30", "--events", "200", "--seed", "3")
    assert said.code == 0
    assert "200 events of 20 users on 30 items, seed 3" in said.out
    said = run("produce", tmp_path / "w" / "events.csv", "--entities", tmp_path / "w" / "entities.jsonl", "--data", tmp_path / "data")
    assert said.code == 0
    assert "entities published" in said.out
    said = run("world", tmp_path / "w", "--events", "0")
    assert said.code == 2
    assert "events=0: a world needs at least 1" in " ".join(said.err.split())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Running]]:
    folder = tmp_path_factory.mktemp("serving") / "data"
    folder.mkdir()
    with server(folder, train_events_min=NEVER) as running:
        yield folder, running


def test_commands_find_the_server_of_the_folder(serving: tuple[Path, Running], tmp_path: Path, run: Run) -> None:
    """Nothing says --url: the folder names its server."""
    folder, _ = serving
    (tmp_path / "u.data").write_bytes(GOOD.encode())
    said = run("produce", tmp_path / "u.data", "--data", folder)
    assert said.code == 0, said.err
    assert "140 events published" in said.out
    status = json.loads(run("lag", "--data", folder, "--json").out)
    lines = int(said.out.split()[0].replace(",", ""))
    assert status["tallies"]["accepted"] + sum(status["tallies"]["dead_letters"].values()) == lines
    assert status["lag_records"] == 0, "produce waits until all is applied"
    assert "as of append" in run("recommend", "u1", "--data", folder).out
    assert run("verify", "--data", folder).out.splitlines()[-1] == "equal"
    said = run("doctor", "--data", folder)
    assert "ok     state: 140 accepted" in said.out


def test_bad_lines_arrive_as_they_are_over_http_too(tmp_path: Path, run: Run) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "u.data").write_bytes(b"no event at all\n\xff\xfe\x80\n" + GOOD.encode() + b"u1\ti1\t5\n")
    with server(tmp_path / "data", train_events_min=NEVER):
        said = run("produce", tmp_path / "u.data", "--data", tmp_path / "data")
        assert said.code == 0, said.err
        tallies = json.loads(run("lag", "--data", tmp_path / "data", "--json").out)["tallies"]
    assert (tallies["accepted"], sum(tallies["dead_letters"].values())) == (140, 3)


@pytest.mark.parametrize("user", ["u1", "a/b", "what?", "50%", "a b", "#1", "\u00e9t\u00e9", "a%2Fb", ".."])
def test_any_user_can_be_asked_for_over_http(serving: tuple[Path, Running], run: Run, user: str) -> None:
    folder, running = serving
    by_folder = json.loads(run("recommend", user, "--data", folder, "--json").out)
    by_url = json.loads(run("recommend", user, "--url", running.client.base_url, "--json").out)
    assert by_folder["user_id"] == by_url["user_id"] == user


def test_a_second_server_on_the_folder_and_commands_that_need_it_alone_are_refused(serving: tuple[Path, Running], run: Run) -> None:
    folder, _ = serving
    one_error(run("serve", "--data", folder, "--port", free_port()), "in use by process")
    one_error(run("rebuild", "--data", folder), "in use by process")
    one_error(run("gap", "accept", "--data", folder), "in use by process")
    assert json.loads(run("lag", "--data", folder, "--json").out)["lag_records"] == 0, "the first goes on, and is still found"


def test_a_port_that_is_taken_is_an_error_of_one_line(serving: tuple[Path, Running], tmp_path: Path) -> None:
    _, running = serving
    command = [sys.executable, "-m", "freshet", "serve", "--data", str(tmp_path / "other"), "--port", str(running.client.base_url.port)]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("error: ") and "--port" in line], ended.stderr
    assert not (tmp_path / "other" / "server.json").exists()


def test_verify_with_the_url_of_another_folders_server_does_not_say_equal(serving: tuple[Path, Running], tmp_path: Path, run: Run) -> None:
    _, running = serving
    said = run("verify", "--url", running.client.base_url, "--data", tmp_path / "elsewhere")
    assert said.code == 1
