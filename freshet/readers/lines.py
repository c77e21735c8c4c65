"""Text files as bounded lines, and one pass over them for what only the whole file tells.

    scan = scan_lines(path, layout); rows = read_lines(path, layout, scan)

Source of the input rules (encoding, blank lines, a last line cut off): the evaluation protocols, section 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Protocol

from freshet.readers.source import BadLine, Row
from stream.events import Event

LINE_BYTES_MAX: Final = 4 << 20
SAMPLE_MAX: Final = 1_000
SECONDS_BELOW: Final = 1e11
"""Times under this are seconds (until the year 5138), others milliseconds (since 1973)."""
TIME_MS_MAX: Final = 2**53
INVENTED_START_MS: Final = 946_684_800_000
"""Where made-up times begin (2000-01-01): a second per row stays in the past for 800 million rows."""
INVENTED_STEP_MS: Final = 1_000
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """One line that is not blank. `ended`: it had a newline; `whole`: it was not over-long (then `raw` is its beginning)."""

    number: int
    raw: bytes
    ended: bool
    whole: bool


@dataclass(frozen=True)
class Times:
    """How to turn a file's times into milliseconds."""

    scale: int

    def to_ms(self, text: str) -> int:
        """Milliseconds of a time as written; raises `BadLine` for what is no number or no time."""
        ms = round(number(text, "time") * self.scale)
        if abs(ms) >= TIME_MS_MAX:
            raise BadLine(f"time {text[:40]!r} is out of range")
        return ms

    @staticmethod
    def invented(place: int) -> int:
        """The made-up time of the row at this place."""
        return INVENTED_START_MS + place * INVENTED_STEP_MS


class Layout(Protocol):
    """One way to write events in lines."""

    @property
    def name(self) -> str:
        """As listed in `EXAMPLES`."""

    @property
    def header(self) -> bool:
        """Whether the first line names columns."""

    @property
    def timed(self) -> bool:
        """Whether lines carry times; else they are made up from the row's place."""

    def measure(self, text: str) -> tuple[int, str | None]:
        """How many rows the line yields (at least 1), and its time as written."""

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """The line's events, of which the first is the file's row number `place`; raises `BadLine`."""


@dataclass(frozen=True)
class Scan:
    """What one pass over a file found; `cut_off` is the number of the last line if it is cut off, and `why` says how."""

    rows: int
    encoding: str
    times: Times
    cut_off: int | None
    why: str


def number(text: str, what: str) -> float:
    """A finite number; raises `BadLine` naming `what` for anything else (underscores, which Python would read, too)."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise BadLine(f"{what} {text[:40]!r} is not a number")
    return value


def iterate(path: Path) -> Iterator[Line]:
    """The file's lines that are not blank, without newline, carriage return or byte order mark; O(longest line) memory."""
    with path.open("rb") as file:
        count = 0
        while raw := file.readline(LINE_BYTES_MAX):
            count += 1
            ended, whole = raw.endswith(b"\n"), True
            while not ended and len(raw) == LINE_BYTES_MAX and (rest := file.readline(LINE_BYTES_MAX)):
                whole, ended = False, rest.endswith(b"\n")
                if len(rest) < LINE_BYTES_MAX:
                    break
            raw = raw.removeprefix(_BOM) if count == 1 else raw
            raw = raw.rstrip(b"\r\n")
            if raw.strip():
                yield Line(count, raw, ended, whole)


def scan_lines(path: Path, layout: Layout) -> Scan:
    """Read the file once: count rows, check the encoding, find the unit of its times and whether its end is cut off."""
    rows, utf8, lowest, sample = 0, True, math.inf, list[float]()
    last: Line | None = None
    last_time = math.nan
    lines = iterate(path)
    if layout.header:
        utf8 = _is_utf8(next(lines).raw)
    for line in lines:
        utf8 = utf8 and _is_utf8(line.raw)
        if not math.isnan(last_time):
            lowest = min(lowest, last_time)
        measured, written = layout.measure(line.raw.decode("latin-1"))
        rows += measured if line.whole else 1
        last, last_time = line, _time_or_nan(written)
        if len(sample) < SAMPLE_MAX and not math.isnan(last_time):
            sample.append(last_time)
    cut_off, why = None, ""
    if last is not None and not last.ended and last_time < lowest < math.inf:
        cut_off, why = last.number, f"cut off: the last line has no newline and its time {last_time:.15g} is below all others"
    scale = 1000 if sample and abs(median(sample)) < SECONDS_BELOW else 1
    return Scan(rows, "utf-8" if utf8 else "latin-1", Times(scale), cut_off, why)


def read_lines(path: Path, layout: Layout, scan: Scan) -> Iterator[Row]:
    """All rows in file order; a line that cannot be read is one row with its reason."""
    place = 0
    lines = iterate(path)
    if layout.header:
        next(lines, None)
    for line in lines:
        try:
            if not line.whole:
                raise BadLine(f"longer than {LINE_BYTES_MAX} bytes")
            if line.number == scan.cut_off:
                raise BadLine(scan.why)
            events = layout.events(line.raw.decode(scan.encoding), place, scan.times)
        except BadLine as bad:
            reason = str(bad) if line.ended or line.number == scan.cut_off else f"{bad} (last line, without a newline: cut off?)"
            yield Row(line.number, None, line.raw, reason)
            place += 1
            continue
        for event in events:
            yield Row(line.number, event, line.raw)
        place += len(events)


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _time_or_nan(written: str | None) -> float:
    if written is None:
        return math.nan
    try:
        return number(written, "time")
    except BadLine:
        return math.nan
