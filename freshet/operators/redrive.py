"""Dead letters as an operator meets them: listed once each, and sent again, with a mark on each origin that was.

Order of effects: 1. the repaired record is appended and acknowledged, 2. its origin is marked. A crash between the two
sends it again, which its event id makes harmless. Over a cluster the marks lie in Redis, else in the folder.

    with letters_of(settings, url=None) as box: box.letters(); redrive(box, shape, wanted=lambda letter: True, edits={}, now_ms=now_ms)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from freshet.access import access
from freshet.clock import now_ms as clock_ms
from freshet.cluster import Services, services
from freshet.settings import Settings
from storage.files import append_line
from storage.log import Entry, Log
from storage.log_lmdb import LmdbLog
from stream.deadletters import DEAD_LETTERS, DeadLetter, decode
from stream.entities import ENTITIES
from stream.redrive import repaired
from stream.shape import Shape

AT_ONCE: Final = 500
REDRIVEN_FILE: Final = "redriven.jsonl"


class Box(Protocol):
    """Where dead letters lie, and the way back for what they hold."""

    def letters(self) -> Iterator[DeadLetter]:
        """All that are kept, oldest first; one of each origin."""

    def marked(self) -> set[str]:
        """Names of the origins that were redriven."""

    def send(self, topic: str, entries: Sequence[Entry]) -> None:
        """Append, acknowledged when this returns."""

    def mark(self, names: Sequence[str], *, now_ms: int) -> None:
        """Write down that these were redriven."""


@dataclass(frozen=True)
class Outcome:
    """What became of one letter; `why` when it was not sent."""

    letter: DeadLetter
    entry: Entry | None
    why: str = ""


class ClusterBox:
    """Dead letters of the topic, marks in a hash of Redis. Marks of letters that the topic forgot are forgotten as well."""

    def __init__(self, site: Services) -> None:
        self._site, self._key = site, f"{site.prefix}:redriven"

    def letters(self) -> Iterator[DeadLetter]:
        """From Kafka."""
        return _distinct(self._site.log)

    def marked(self) -> set[str]:
        """From Redis."""
        return {name.decode() for name in self._site.client.hkeys(self._key)}

    def send(self, topic: str, entries: Sequence[Entry]) -> None:
        """To Kafka, which stamps them."""
        self._site.log.append(topic, entries, now_ms=clock_ms())

    def mark(self, names: Sequence[str], *, now_ms: int) -> None:
        """In Redis."""
        self._site.client.hset(self._key, mapping=dict.fromkeys(names, now_ms))

    def forget(self) -> int:
        """Marks whose letters are gone are removed: there are never more than letters."""
        gone = self.marked() - {letter.name for letter in self.letters()}
        return int(self._site.client.hdel(self._key, *gone)) if gone else 0


class FolderBox:
    """Dead letters of a data folder's log, also while a server holds it; what is sent goes through that server then."""

    def __init__(self, settings: Settings, url: str | None) -> None:
        self._settings, self._url, self._file = settings, url, settings.data / REDRIVEN_FILE

    def letters(self) -> Iterator[DeadLetter]:
        """Read whole before anything is sent: the log is opened once at a time."""
        if not (self._settings.data / "log").exists():
            return iter(())
        with LmdbLog(self._settings.data / "log", partitions=self._settings.partitions, read_only=True) as log:
            return iter(list(_distinct(log)))

    def marked(self) -> set[str]:
        """From the folder."""
        names = set()
        for line in self._file.read_bytes().splitlines() if self._file.exists() else ():
            with suppress(msgspec.DecodeError):  # a kill can leave a torn last line
                names.add(str(msgspec.json.decode(line)["origin"]))
        return names

    def send(self, topic: str, entries: Sequence[Entry]) -> None:
        """To the server, or into the folder."""
        with access(self._settings, self._url) as site:
            if topic == ENTITIES:
                site.append_entities([entry.value for entry in entries])
            else:
                site.append(entries)
            site.settle()

    def mark(self, names: Sequence[str], *, now_ms: int) -> None:
        """A line each."""
        for name in names:
            append_line(self._file, msgspec.json.encode({"origin": name, "at_ms": now_ms}))


@contextmanager
def letters_of(settings: Settings, url: str | None) -> Iterator[tuple[Box, Shape]]:
    """The cluster's when brokers are set, else the folder's."""
    if not settings.kafka:
        yield FolderBox(settings, url), Shape(partitions=settings.partitions)
        return
    with services(settings, looking=True) as site:
        yield ClusterBox(site), site.shape


def redrive(  # noqa: PLR0913  # whose letters, which of them, and how
    box: Box, shape: Shape, *, wanted: Callable[[DeadLetter], bool], edits: Mapping[str, Any], now_ms: int, dry: bool = False
) -> Iterator[Outcome]:  # fmt: skip
    """Send what is wanted and was not redriven yet; what would be refused again stays. `dry`: say it and send nothing."""
    marked, waiting = box.marked(), list[Outcome]()
    for letter in box.letters():
        if letter.name in marked or not wanted(letter):
            continue
        try:
            outcome = Outcome(letter, repaired(letter, edits, shape, now_ms=now_ms))
        except ValueError as error:
            yield Outcome(letter, None, str(error))
            continue
        waiting.append(outcome)
        if len(waiting) == AT_ONCE:
            yield from _sent(box, waiting, now_ms, dry)
            waiting.clear()
    yield from _sent(box, waiting, now_ms, dry)
    if isinstance(box, ClusterBox) and not dry:
        box.forget()


def _sent(box: Box, waiting: list[Outcome], now_ms: int, dry: bool) -> list[Outcome]:
    if not dry:
        for topic in sorted({outcome.letter.topic for outcome in waiting}):
            here = [outcome for outcome in waiting if outcome.letter.topic == topic]
            box.send(topic, [outcome.entry for outcome in here if outcome.entry is not None])
            box.mark([outcome.letter.name for outcome in here], now_ms=now_ms)
    return list(waiting)


def _distinct(log: Log) -> Iterator[DeadLetter]:
    offset, told = log.first_offset(DEAD_LETTERS, 0), set[str]()
    while records := log.read(DEAD_LETTERS, 0, offset):
        offset = records[-1].offset + 1
        for record in records:
            try:
                letter = decode(record.value)
            except msgspec.DecodeError:  # somebody else's: nobody but us writes here
                continue
            if letter.name not in told:
                told.add(letter.name)
                yield letter
