"""Effect once: a process that ingests is killed at every named point and at random times, and goes on; the sums agree.

Invariant 1 of the design. The children are forked by a nursery, see `ingest_child.py`.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.log_lmdb import LmdbLog
from storage.state_lmdb import LmdbState
from storage.state_memory import MemoryState
from stream.replay import digest
from tests.stream.event_logs import SMALL, expected, fill, ingest_all, letters, make_messages, stored, totals, wanted
from tests.stream.ingest_child import LOG_BYTES_MAX
from tests.stream.oracle import Oracle

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("before dead letters", "after dead letters", "before commit", "after commit")
KILLS = 60
KILLED = -signal.SIGKILL


class Nursery:
    """Runs one trial at a time and kills it when asked to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def run(self, *, batch: int, point: str = "", hit: int = 1, kill_after_s: float | None = None) -> int:
        """Ingest from where the last trial stopped; the exit status, -9 when it was killed."""
        self._stdin.write(json.dumps({"batch": batch, "point": point, "hit": hit}).encode() + b"\n")
        pid = self._answer()
        if kill_after_s is not None:
            ended, _, _ = select.select([self._stdout], [], [], kill_after_s)
            if not ended:
                os.kill(pid, signal.SIGKILL)
        return self._answer()

    def _answer(self) -> int:
        return int(json.loads(self._stdout.readline()))


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    command = [sys.executable, "-m", "tests.stream.ingest_child", "nursery", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        yield Nursery(process)


def prepared(folder: Path, *, seed: int, messages: int) -> tuple[Oracle, int]:
    """A log in the folder; what it must come to, and its number of dead letters."""
    made = make_messages(random.Random(seed), SMALL, count=messages)
    with LmdbLog(folder / "log", log_bytes_max=LOG_BYTES_MAX) as log:
        positions = fill(log, made)
    return expected(SMALL, made, positions), sum(message.refused for message in made)


def assert_effect_once(folder: Path, oracle: Oracle, dead: int) -> None:
    """State, tally, dead letters and digest are those of the oracle and of a run that nobody disturbed."""
    with LmdbLog(folder / "log", log_bytes_max=LOG_BYTES_MAX) as log:
        state = LmdbState(folder / "state", boot_id="this boot")
        undisturbed = MemoryState()
        ingest_all(log, undisturbed, SMALL)
        assert not state.distrusted
        assert totals(ingest_all(log, state, SMALL)) == {"accepted": oracle.accepted[0], "duplicates": oracle.duplicates[0], "dead": dead}
        assert stored(state) == wanted(oracle)
        assert digest(state, 0) == digest(undisturbed, 0)
        assert len({letter.origin for letter in letters(log)}) == dead
        state.close()


@pytest.mark.parametrize("point", POINTS)
def test_effect_once_when_killed_at_every_named_point(point: str, tmp_path: Path) -> None:
    oracle, dead = prepared(tmp_path, seed=3, messages=240)
    with nursery(tmp_path) as trials:
        assert trials.run(batch=30, point=point) == KILLED
        kills = 1
        while trials.run(batch=30, point=point, hit=2) == KILLED:
            kills += 1
        assert kills >= 4
        assert trials.run(batch=30) == 0
    assert_effect_once(tmp_path, oracle, dead)


def test_effect_once_when_killed_at_sixty_random_times_under_load(tmp_path: Path) -> None:
    oracle, dead = prepared(tmp_path, seed=4, messages=4000)
    rng = random.Random(5)
    with nursery(tmp_path) as trials:
        status = [trials.run(batch=3, kill_after_s=rng.uniform(0.002, 0.025)) for _ in range(KILLS)]
        assert status == [KILLED] * KILLS, "the log must be longer than all trials"
        watermark = LmdbState(tmp_path / "state", boot_id="this boot", read_only=True)
        assert 0 < watermark.watermarks("events")[0] < 4000, "killed in the middle of the work"
        watermark.close()
        assert trials.run(batch=256) == 0
    assert_effect_once(tmp_path, oracle, dead)
