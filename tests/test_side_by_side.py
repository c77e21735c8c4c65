"""Two pytests as one: the status is good only if both are, nothing of what either said is missing, and a signal ends both."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.services import wait_until

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib -p no:cacheprovider"
pythonpath = ["."]
[tool.coverage.run]
branch = true
source = ["room"]
[tool.coverage.report]
fail_under = 90
"""
DOORS = "def left():\n    return 1\n\n\ndef right():\n    return 2\n"
LEFT = "from room.doors import left\n\ndef test_left(): assert left() == 1"
RIGHT = "from room.doors import right\n\ndef test_right(): assert right() == 2"
WRONG = "\n\ndef test_wrong(): assert 1 == 2"
SKIPPED = "\n\ndef test_skipped(): __import__('pytest').skip('not here')"
DIES = "\n\ndef test_dies(): __import__('os')._exit(0)"
WAITS = """
import os, threading
from pathlib import Path

def test_waits():
    Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
    threading.Event().wait()
"""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[str, str], "subprocess.Popen[str]"]:
    """Starts a run over a small project, of one test file beside another."""
    for folder in ("room", "tests/cluster", "tests/bench"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    (tmp_path / "room" / "doors.py").write_text(DOORS)
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_cov.plugin", "PYTHONPATH": ""}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "PYTEST_", "COV_"))} | own

    def begun(cluster: str, others: str) -> "subprocess.Popen[str]":
        (tmp_path / "tests" / "cluster" / "test_left.py").write_text(cluster)
        (tmp_path / "tests" / "test_right.py").write_text(others)
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "side_by_side.py")], cwd=tmp_path, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return begun


@pytest.mark.parametrize(
    ("cluster", "others", "status", "last"),
    [
        (LEFT, RIGHT + SKIPPED, 0, ["branch coverage 100.0 %, needed 90 %", "all is well: 2 passed, 0 failed, 1 skipped"]),
        (LEFT + WRONG, RIGHT, 1, ["FAILED tests/cluster/test_left.py::test_wrong", "FAILED: 2 passed, 1 failed, 0 skipped"]),
        (LEFT, RIGHT + WRONG, 1, ["FAILED tests/test_right.py::test_wrong", "FAILED: 2 passed, 1 failed, 0 skipped"]),
        (LEFT, RIGHT + DIES, 1, ["FAILED all other tests: pytest ended with status 0 and left no report", "no coverage of both together"]),
        (LEFT, "import nothing_at_all", 1, ["FAILED tests/test_right.py::tests.test_right", "FAILED: 1 passed, 1 failed, 0 skipped"]),
        (LEFT, "", 1, ["FAILED all other tests: pytest ended with status 5", "FAILED: 1 passed, 1 failed, 0 skipped"]),
        (LEFT, "def test_little(): pass", 1, ["branch coverage 75.0 %, needed 90 %", "FAILED: 2 passed, 0 failed, 0 skipped"]),
    ],
    ids=["well", "the first fails", "the second fails", "one dies", "one cannot be read", "one has no tests", "little is covered"],
)  # fmt: skip
def test_all_is_well_only_if_both_are_and_enough_is_covered(
    begin: Callable[[str, str], "subprocess.Popen[str]"], cluster: str, others: str, status: int, last: list[str]
) -> None:
    process = begin(cluster, others)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    summary = said.rpartition(" all tests ")[2].splitlines()
    assert all(any(line.startswith(wanted) for line in summary) for wanted in last), said
    assert said.count("test session starts") == 2, "both are put out"
    assert ("E   assert 1 == 2" in said.rpartition(" all tests ")[0]) == (WRONG in cluster + others), "with what failed"
    assert ("E   assert 1 == 2" in summary) == (WRONG in cluster + others), "and why, once more at the end"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both(begin: Callable[[str, str], "subprocess.Popen[str]"], tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C is given to the whole group by the terminal, SIGTERM to one process."""
    process = begin(WAITS, WAITS)
    files = [tmp_path / "tests" / "cluster" / "test_left.pid", tmp_path / "tests" / "test_right.pid"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), seconds=60, alive=lambda: process.poll() is None)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "\ninterrupted\n" in said, said
    assert said.count("KeyboardInterrupt") >= 2, "both ended in order"
    assert not [file for file in files if Path(f"/proc/{file.read_text()}").exists()]
