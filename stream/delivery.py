"""What a producer promises for each event, and what it needs of a log: tokens, errors, sinks.

landed = producer.send(event).result(); landed.partition, landed.offset, landed.index
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from storage.log import Entry, Position
from stream.events import Event

Append = Callable[[Sequence[Entry]], Sequence[Position]]
Done = Callable[[int, Position | Exception], None]
Failure = tuple[Event | bytes, Exception]
TIMEOUT_S: Final = 30.0


class BufferFull(RuntimeError):
    """As much as may wait does, and no acknowledgement made room in time; the event was not taken."""


class NotDelivered(RuntimeError):
    """Events that were not acknowledged and will not be tried again; `failed` has each with its error.

    They may be on the log all the same: an acknowledgement can be lost. Sending one again with its id does no harm.
    """

    def __init__(self, failed: Sequence[Failure]) -> None:
        self.failed = failed
        super().__init__(
            f"{len(failed)} events were not acknowledged and will not be tried again, the first because: {failed[0][1]} "
            "(send those in `failed` again, with their ids, or pass on_error)"
        )


@dataclass(frozen=True)
class Landed:
    """Where an event is: the `index`-th of the record at `offset`. `incarnation` is None where the sink does not know it."""

    topic: str
    incarnation: int | None
    partition: int
    offset: int
    index: int


class Sink(Protocol):
    """A log's topic, seen from a producer."""

    @property
    def topic(self) -> str:
        """Its name, without the installation's prefix."""

    @property
    def incarnation(self) -> int | None:
        """Which topic of that name it is, as the state counts them; None where nobody asked the state."""

    @property
    def partitions(self) -> int:
        """How many there are."""

    @property
    def linger_s(self) -> float:
        """How long events wait for company unless the caller says; infinite where each append costs much: until a flush."""

    def put(self, entries: Sequence[Entry], done: Done) -> None:
        """Take all, and say `done(which, where or why not)` once for each, now or later, in any thread; or take none and raise."""

    def close(self) -> None:
        """Say `done` of everything taken before this returns."""


@dataclass(frozen=True)
class Appending:
    """The sink of a log that has appended when it returns, as the embedded one has."""

    append: Append
    partitions: int = 1
    topic: str = "events"
    incarnation: int | None = None
    linger_s: float = math.inf

    def put(self, entries: Sequence[Entry], done: Done) -> None:
        """Append everything at once; what `append` raises is the caller's, who has it still."""
        for which, position in enumerate(self.append(entries)):
            done(which, position)

    def close(self) -> None:
        """Nothing waits here."""


class Token:
    """The promise of where one event lands. `event_id` is the one it went with ("" for bytes that are no event)."""

    __slots__ = ("_changed", "_outcome", "what")

    def __init__(self, what: Event | bytes, changed: threading.Condition) -> None:
        self.what, self._changed = what, changed
        self._outcome: Landed | Exception | None = None

    @property
    def event_id(self) -> str:
        """The id, the producer's where the event had none."""
        return self.what.event_id or "" if isinstance(self.what, Event) else ""

    @property
    def done(self) -> bool:
        """Whether it is known what became of it."""
        return self._outcome is not None

    def result(self, timeout_s: float = TIMEOUT_S) -> Landed:
        """Wait for the acknowledgement. Raises `NotDelivered`, and TimeoutError when it is not there in time: it still may come."""
        with self._changed:
            self._changed.wait_for(lambda: self.done, timeout_s)
        if self._outcome is None:
            raise TimeoutError(f"event {self.event_id!r} is not acknowledged after {timeout_s} s: flush the producer, or wait longer")
        if isinstance(self._outcome, Exception):
            raise NotDelivered([(self.what, self._outcome)]) from self._outcome
        return self._outcome

    def settle(self, outcome: Landed | Exception) -> None:
        """The producer's: what became of it, once, under its lock."""
        assert self._outcome is None, f"{self.event_id!r} was told twice: {self._outcome} and {outcome}"
        self._outcome = outcome
