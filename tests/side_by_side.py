"""All tests in two processes side by side: those that mostly wait for Kafka, Redis and processes of ours, and all others.

    python -m tests.side_by_side

What the first says is put out as it comes; what the other says whole when it has ended, or live once the first has. The last lines
sum up both: what failed and why, counts, seconds, branch coverage of the two together. Ctrl-C ends both. The exit status is 0 when both
passed and coverage suffices, 130 after Ctrl-C, else 1.
"""

import io
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Self
from xml.etree import ElementTree

import coverage
from coverage.exceptions import CoverageException
from rich.console import Console

PROCESSES: Final = {
    "tests of services": ("tests/cluster", "tests/bench", "--ignore-glob=tests/bench/test_quality_*.py"),
    "all other tests": ("tests", "--ignore=tests/cluster", "--ignore-glob=tests/bench/test_[!q]*.py"),
}
"""By what takes alike long; benches of quality need no service."""
OPTIONS: Final = (
    "--cov", "--cov-report=", "--cov-fail-under=0", "--durations=10", "--durations-min=1", "-o", "junit_family=xunit1",
)  # fmt: skip
"""Coverage is judged of both together; this family of reports names the file of each test."""
INTERRUPTED: Final = 130
AGAIN_S: Final = 30
"""A KeyboardInterrupt may be lost where a library swallows it: the next comes after so long."""
CHUNK: Final = 1 << 16
WHY_LINES_MAX: Final = 12
WHY_COLUMNS_MAX: Final = 300
"""Of what is said of a failure once more at the end; pytest's own words stand above."""
WELL: Final = "bold green"
BADLY: Final = "bold red"
console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Half:
    """One pytest: where it leaves its report and its coverage, and what it has said that is not put out yet."""

    name: str
    process: "subprocess.Popen[bytes]"
    report: Path
    coverage: Path
    held: list[bytes] = field(default_factory=list)

    def put_out(self) -> None:
        """What is held."""
        sys.stdout.buffer.writelines(self.held)
        sys.stdout.buffer.flush()
        self.held.clear()


@dataclass(frozen=True)
class Counts:
    """Tests by what became of them; of those that failed, by name, what pytest says of why."""

    passed: int
    failed: Mapping[str, Sequence[str]]
    skipped: int
    seconds: float

    @classmethod
    def of(cls, half: Half) -> Self:
        """From pytest's report. An end without one, or a bad end where no test failed, is a failure too."""
        ended = f"{half.name}: pytest ended with status {half.process.wait()}"
        try:
            (suite,) = ElementTree.parse(half.report).iter("testsuite")
        except (OSError, ElementTree.ParseError):
            return cls(0, {f"{ended} and left no report": ()}, 0, 0.0)
        cases = {f"{case.get('file') or case.get('classname')}::{case.get('name')}": case for case in suite}
        wrong = {name: [*case.iter("failure"), *case.iter("error")] for name, case in cases.items()}
        failed = {name: why(parts[0].text or "") for name, parts in wrong.items() if parts}
        skipped = sum(case.find("skipped") is not None for case in cases.values())
        badly: dict[str, Sequence[str]] = {ended: ()} if half.process.returncode and not failed else {}
        return cls(len(cases) - len(failed) - skipped, failed or badly, skipped, float(suite.get("time", 0)))


def why(told: str) -> list[str]:
    """The lines in which pytest says what was not as it should be, the first few."""
    lines = [line[:WHY_COLUMNS_MAX] for line in told.splitlines() if line.startswith("E ")]
    return lines[:WHY_LINES_MAX]


def main() -> int:
    """Run both in the folder we are in; returns the exit status."""
    halves, signals = list[Half](), list[int]()

    def end(number: int, _: FrameType | None) -> None:
        """The terminal gives Ctrl-C to all of us, and pytest ends in order. SIGTERM and the alarm, that one has not, are ours alone."""
        signals.append(number)
        for half in halves:
            if number != signal.SIGINT:
                half.process.send_signal(signal.SIGINT)
        signal.alarm(AGAIN_S)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    with tempfile.TemporaryDirectory(prefix="freshet-tests-") as folder:
        for name, arguments in PROCESSES.items():
            halves.append(started(name, arguments, Path(folder) / str(len(halves))))
        follow(halves)
        counts = {half.name: Counts.of(half) for half in halves}
        measured = ("interrupted", False) if signals else covered([half.coverage for half in halves])
    well = sum_up(counts, *measured)
    return INTERRUPTED if signals else int(not well)


def started(name: str, arguments: Sequence[str], stem: Path) -> Half:
    """One pytest over these."""
    report, measured = stem.with_suffix(".xml"), stem.with_suffix(".coverage")
    colour = "yes" if console.is_terminal else "no"
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--color={colour}", f"--junit-xml={report}", *arguments]
    where = {**os.environ, "COVERAGE_FILE": str(measured)}
    process = subprocess.Popen(command, env=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return Half(name, process, report, measured)


def follow(halves: Sequence[Half]) -> None:
    """Put out what they say until all have said everything: of one live, of another one when it has ended."""
    live = halves[0]
    console.rule(f"{live.name}, live")
    console.print(f"Beside it run {' and '.join(half.name for half in halves[1:])}: put out when they have ended.")
    with selectors.DefaultSelector() as pipes:
        for half in halves:
            assert half.process.stdout is not None
            pipes.register(half.process.stdout, selectors.EVENT_READ, half)
        while pipes.get_map():
            for key, _ in pipes.select():
                half, chunk = key.data, os.read(key.fd, CHUNK)
                half.held.append(chunk)
                if not chunk:
                    pipes.unregister(key.fileobj)
                    live = taking_turns(half, live, [left.data for left in pipes.get_map().values()])
                elif half is live:
                    half.put_out()


def taking_turns(ended: Half, live: Half, left: Sequence[Half]) -> Half:
    """Put out what is held of the one that has ended; returns which of those that are left is live from now on."""
    if ended is not live:
        console.print()
        console.rule(f"{ended.name}, from beginning to end")
    ended.put_out()
    if not left:
        return ended
    console.print()
    console.rule(f"{left[0].name}, going on")
    left[0].put_out()
    return left[0]


def covered(files: Sequence[Path]) -> tuple[str, bool]:
    """Branch coverage of these together, which `.coverage` then holds, in words, and whether it suffices."""
    both = coverage.Coverage()
    try:
        both.combine([str(file) for file in files], strict=True)
        both.save()
        total, needed = both.report(file=io.StringIO()), float(str(both.get_option("report:fail_under")))
    except CoverageException as error:
        return f"no coverage of both together: {error}", False
    return f"branch coverage {total:.1f} %, needed {needed:.0f} %", total >= needed


def sum_up(counts: Mapping[str, Counts], measured: str, suffices: bool) -> bool:
    """The last lines, in red what is wrong; returns whether nothing is."""
    failed = {name: told for found in counts.values() for name, told in found.failed.items()}
    passed, skipped = (sum(getattr(found, what) for found in counts.values()) for what in ("passed", "skipped"))
    well = suffices and not failed
    console.print()
    console.rule("all tests")
    for name, lines in failed.items():
        console.print(f"FAILED {name}", style=BADLY)
        for line in lines:
            console.print(line)
    for name, found in counts.items():
        told = f"{found.passed} passed, {len(found.failed)} failed, {found.skipped} skipped in {found.seconds:.0f} s"
        console.print(f"{name}: {told}", style=BADLY if found.failed else None)
    console.print(measured, style=None if suffices else BADLY)
    told = f"{passed} passed, {len(failed)} failed, {skipped} skipped"
    console.print(f"{'all is well' if well else 'FAILED'}: {told}", style=WELL if well else BADLY)
    return well


if __name__ == "__main__":
    sys.exit(main())
