"""A peer is installed apart, from exact pins; its figures are read from its last line; what goes wrong says so."""

import ast
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.peers.peer import QUIX, PeerFailed, PeerResult, PeerUnavailable, environment, pinned, result_of, said_by
from bench.peers.quix.last_items import KEPT, LastItems

PINS = QUIX / "requirements.txt"
SECONDS = {"seconds": 0.5, "cpu_seconds": 0.004, "closed_seconds": 0.75, "closed_cpu_seconds": 0.005}
REPORT = {"events": 200, **SECONDS, "versions": {"python": "3.11"}}


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    def written(source: str) -> Path:
        path = tmp_path / "peer_program.py"
        path.write_text(source)
        return path

    return written


def test_the_pins_are_names_and_versions() -> None:
    lines = PINS.read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)], "no addresses, no ranges"
    assert len({line.split("==")[0].lower() for line in lines}) == len(lines), "each once"
    assert re.fullmatch(r"3\.\d+\.\d+", pinned(PINS.read_text(), "quixstreams"))


def test_the_program_stands_alone() -> None:
    tree = ast.parse((QUIX / "last_items.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    rooms = {name.partition(".")[0] for name in named}
    assert "quixstreams" in rooms
    assert rooms - {"quixstreams"} <= sys.stdlib_module_names


class OneKey:
    """Quix's state as its documentation describes it: values by name, for the key of the message at hand."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, name: str, default: Any) -> Any:
        return json.loads(self.values[name]) if name in self.values else default

    def set(self, name: str, value: Any) -> None:
        self.values[name] = json.dumps(value)


def test_a_list_holds_the_newest_items_oldest_first_and_the_clock_is_read_twice() -> None:
    ticks = itertools.count()
    lists, users = LastItems(260, lambda: (float(next(ticks)), 0.0)), [OneKey(), OneKey()]
    for n in range(260):
        lists.keep({"user_id": f"u{n % 2}", "item_id": f"i{n}"}, users[n % 2])
    assert [user.get("items", []) for user in users] == [[f"i{n}" for n in range(60 + first, 260, 2)] for first in (0, 1)]
    assert (lists.seen, lists.began[0], lists.ended[0], next(ticks), KEPT) == (260, 0, 1, 2, 100)


def test_the_result_is_the_last_line(program: Callable[[str], Path]) -> None:
    path = program(f"import sys\nprint('warming up')\nprint('noise', file=sys.stderr)\nprint({json.dumps(REPORT)!r})\n")
    result = result_of(said_by(Path(sys.executable), path, []), 200)
    assert result == PeerResult(200, 0.5, 0.004, 0.75, 0.005, {"python": "3.11"})
    assert result.events_per_s == 400
    assert result.us_per_event == pytest.approx(20)


def test_a_program_gets_its_arguments_and_nothing_of_our_path(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "ours"))
    path = program("import sys; print(sys.argv[1:], [place for place in sys.path if 'ours' in place])")
    assert said_by(Path(sys.executable), path, ["--topic", "a b; c"]).strip() == "['--topic', 'a b; c'] []"


def test_a_program_that_fails_is_quoted(program: Callable[[str], Path]) -> None:
    path = program("raise SystemExit('topic \"events\" gave 3 events, then none')\n")
    with pytest.raises(PeerFailed, match=r'peer_program.py ended with 1: topic "events" gave 3 events, then none'):
        said_by(Path(sys.executable), path, [])


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("", "not a result"),
        ("done", "not a result"),
        (json.dumps({**REPORT, "seconds": "fast"}), "not a result"),
        (json.dumps({name: REPORT[name] for name in REPORT if name != "cpu_seconds"}), "cpu_seconds"),
        (json.dumps({**REPORT, "events": 199}), "^200 events"),
        (json.dumps({**REPORT, "seconds": 0.0}), "0 < seconds"),
        (json.dumps({**REPORT, "closed_seconds": 0.1}), "0 < seconds"),
    ],
)
def test_anything_but_a_result_is_refused(last: str, why: str) -> None:
    with pytest.raises(PeerFailed, match=why):
        result_of(f"{json.dumps(REPORT)}\n{last}\n" if last else "", 200)


def test_an_environment_is_made_once_and_anew_for_other_pins(tmp_path: Path) -> None:
    folder, pins = tmp_path / "peers" / "none-1", tmp_path / "requirements.txt"
    pins.write_text("")
    python = environment(folder, pins)
    assert said_by(python, _prefix(tmp_path), []).strip() == str(folder)
    made = folder.stat().st_ino
    assert environment(folder, pins) == python
    assert folder.stat().st_ino == made
    pins.write_text("\n")
    assert environment(folder, pins) == python
    assert folder.stat().st_ino != made
    assert [path.name for path in folder.parent.iterdir()] == ["none-1"]


def test_what_cannot_be_installed_says_the_way_out_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PeerUnavailable, match=r"(?s)quix-3 cannot be installed: .*==.*leave the peer out"):
        environment(tmp_path / "peers" / "quix-3", PINS)
    assert not list((tmp_path / "peers").iterdir())


def _prefix(folder: Path) -> Path:
    path = folder / "prefix.py"
    path.write_text("import sys; print(sys.prefix)")
    return path
