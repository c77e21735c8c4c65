"""The producer: packs events of one partition together and hands them to a log, in order, at least once.

    with Producer(append) as producer: token = producer.send(event); producer.flush(); token.result().offset

Where they go is a sink: a callable that appends and returns (the embedded engine's, an HTTP client's), or one that is
acknowledged later (`stream/producer_kafka.py`). An event without an id gets one here, so that sending it again is known for a
duplicate.
"""

import itertools
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Final, TypeVar

import msgspec
import pyarrow as pa

from storage.log import PACK, VALUE_BYTES_MAX, Entry, Position
from stream.delivery import TIMEOUT_S, Append, Appending, BufferFull, Failure, Landed, NotDelivered, Sink, Token
from stream.events import Event
from stream.routing import partition_of
from stream.wire import BAD_BYTES_MAX, PACK_EVENTS_MAX, encode_event, encode_pack

Known = TypeVar("Known")
OnError = Callable[[Event | bytes, Exception], None]
LINGER_EVENTS: Final = 250
PACKED_MIN: Final = 16
"""Of fewer events a pack is mostly schema: 2.4 KB and 130 us to read for two, beside 0.2 KB and 2 us as JSON."""
WAITING_MAX: Final = 20_000
"""Events that are not acknowledged yet, over all partitions."""
WAITING_BYTES_MAX: Final = 64 << 20
"""Bytes of packs that are not acknowledged yet."""
ROUTES_MAX: Final = 65_536
"""Users whose partition is remembered."""
ERROR_PAUSE_S: Final = 0.5
"""Between two attempts of the thread to hand over what the sink refused."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long events wait for company, and how much may wait in all.

    A pack goes when it is full, or `linger_s` old: the sink's own unless set here; one of few events goes as JSON. Where that is
    infinite everything waits for `flush`, or until no more may wait. `block_s` is how long `send` waits for room.
    """

    linger_events: int = LINGER_EVENTS
    linger_s: float | None = None
    waiting_max: int = WAITING_MAX
    waiting_bytes_max: int = WAITING_BYTES_MAX
    block_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if not 1 <= self.linger_events <= PACK_EVENTS_MAX:
            raise ValueError(f"linger_events={self.linger_events} is outside 1..{PACK_EVENTS_MAX}")
        for name in ("waiting_max", "waiting_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 must be able to wait")


@dataclass(frozen=True)
class _Delivery:
    """One record on its way, and whose events are in it."""

    entry: Entry
    tokens: Sequence[Token]


@dataclass
class _Run:
    """Events of one partition that wait for company since a time."""

    since: float
    tokens: list[Token] = field(default_factory=list)


class Producer:
    """Shared by the threads of a process. `send` returns at once while there is room; `flush` returns when all before it is acknowledged.

    Every event is acknowledged once or handed to `on_error` once, with its id, in a thread that sends, flushes or closes, or
    the one that lingers. Without `on_error` the next of these calls raises `NotDelivered`. `on_error` may send (not while the
    producer closes), never flush.
    """

    def __init__(
        self, to: Append | Sink, *, limits: Limits | None = None, prefix: str | None = None, on_error: OnError | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`clock` tells seconds and decides what has lingered; `prefix` begins the ids made here and must be no other producer's."""
        self._sink: Sink = Appending(to) if callable(to) else to
        self._limits, self._on_error, self._clock = limits or Limits(), on_error, clock
        self._linger_s = self._sink.linger_s if self._limits.linger_s is None else self._limits.linger_s
        self._prefix, self._counter, self._serial = prefix or uuid.uuid4().hex, itertools.count(), itertools.count()
        self._route = lru_cache(ROUTES_MAX)(lambda user_id: partition_of(user_id, self._sink.partitions))
        self._handing, self._changed = threading.Lock(), threading.Condition()  # taken in this order
        self._runs: dict[int, _Run] = {}
        self._ready: list[_Delivery] = []
        self._flying: dict[int, _Delivery] = {}  # in the order they were handed over
        self._failed: deque[Failure] = deque()
        self._waiting = self._bytes = 0
        self._telling = self._closed = False
        self._stopping = threading.Event()
        if self._linger_s < math.inf:
            threading.Thread(target=self._linger, name="producer", daemon=True).start()

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except NotDelivered as lost:
            if error is None:
                raise
            error.add_note(str(lost))  # what is on its way says more, and is what the caller catches

    def send(self, event: Event) -> Token:
        """Take an event; its id is made here when it has none.

        Raises `BufferFull`, `NotDelivered` (of earlier events), what the sink raised when too many wait, and RuntimeError once
        closed; it is not taken then.
        """
        return self._take(event)

    def send_raw(self, body: bytes) -> Token:
        """Take bytes that are no event: they become a dead letter with this content (at most 64 KiB of it). Raises as `send` does."""
        return self._take(body[:BAD_BYTES_MAX] or b" ")

    def flush(self, timeout_s: float = TIMEOUT_S) -> None:
        """Have everything sent before acknowledged. Raises TimeoutError and what the sink raised (all still waits), `NotDelivered`."""
        self._hand_over()
        last = next(self._serial)

        def landed() -> bool | None:
            return self._all_told() if next(iter(self._flying), last) >= last else None

        if not self._until(landed, timeout_s):
            raise TimeoutError(
                f"{self._waiting} events are not acknowledged after {timeout_s} s and still wait: flush again, or close, "
                "which gives them up one by one"
            )

    def close(self, timeout_s: float = TIMEOUT_S) -> None:
        """Flush, then give up what is not acknowledged by then: `on_error` gets it, or `NotDelivered` is raised."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._stopping.set()
            self._changed.notify_all()
        why, failed = self._flushed_at_last(timeout_s)
        with self._handing:  # nobody gives the sink anything from here on
            self._sink.close()
            with self._changed:
                for partition in sorted(self._runs):
                    self._close_run(partition)
                for delivery in self._ready:
                    self._settle(delivery, why)
                self._ready.clear()
                self._changed.notify_all()
                if self._on_error is None:
                    failed += self._untold()
        if failed:
            raise NotDelivered(failed)
        self._tell_all()

    def _flushed_at_last(self, timeout_s: float) -> tuple[Exception, list[Failure]]:
        """Flush for the last time: why what still waits does so, and what failed meanwhile and has nobody to be told to."""
        end, failed = time.monotonic() + timeout_s, list[Failure]()
        while True:
            try:
                self.flush(max(0.0, end - time.monotonic()))
                break
            except NotDelivered as error:
                failed += error.failed
            except Exception as error:  # noqa: BLE001  whatever the sink or `on_error` says, each event is told of at the end
                return error, failed
        return RuntimeError("the producer was closed"), failed

    def _take(self, what: Event | bytes) -> Token:
        self._tell()
        token = self._admitted(what)
        if token is None:
            self._hand_over()
            token = self._until(lambda: self._admitted(what), self._limits.block_s)
        if token is None:
            raise BufferFull(
                f"{self._waiting} events wait for an acknowledgement ({self._bytes} bytes of them packed; the bounds are "
                f"{self._limits.waiting_max} and {self._limits.waiting_bytes_max}) and none came within {self._limits.block_s} s: "
                "the log is away, or slower than what is sent; send this event again later, or set a larger waiting_max or block_s"
            )
        return token

    def _admitted(self, what: Event | bytes) -> Token | None:
        """Take it, if there is room."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the producer is closed: what is sent now would go nowhere")
            if self._waiting >= self._limits.waiting_max or self._bytes >= self._limits.waiting_bytes_max:
                return None
            self._waiting += 1
            number = next(self._counter)  # ids tell the place in what was sent
            if isinstance(what, Event) and not what.event_id:
                what = msgspec.structs.replace(what, event_id=f"{self._prefix}-{number}")
            token = Token(what, self._changed)
            self._wait_for_company(token)
            return token

    def _wait_for_company(self, token: Token) -> None:
        """Join the events of the same partition; bytes that are no event keep their place between those of partition 0."""
        if isinstance(token.what, bytes):
            self._close_run(0)
            self._make_ready([_Delivery(Entry(0, token.what), [token])])
            return
        partition = self._partition(token.what)
        run = self._runs.get(partition)
        if run is None:
            run = self._runs[partition] = _Run(self._clock())
            self._changed.notify_all()  # the thread has something to wait for
        run.tokens.append(token)
        if len(run.tokens) >= self._limits.linger_events:
            self._close_run(partition)

    def _partition(self, event: Event) -> int:
        try:
            return self._route(event.user_id) if self._sink.partitions > 1 else 0
        except (UnicodeError, TypeError, pa.ArrowException):
            return 0  # its user_id is no text: a dead letter wherever it lands

    def _close_run(self, partition: int) -> None:
        run = self._runs.pop(partition, None)
        if run is not None:
            self._make_ready(_packed(partition, run.tokens, min(PACKED_MIN, self._limits.linger_events)))

    def _make_ready(self, deliveries: Sequence[_Delivery]) -> None:
        self._ready.extend(deliveries)
        self._bytes += sum(len(delivery.entry.value) for delivery in deliveries)
        self._changed.notify_all()

    def _hand_over(self, *, due_s: float = math.inf) -> None:
        """Pack what waits since `due_s` or longer, and give the sink all that is packed; all stays here when the sink raises."""
        with self._handing:
            with self._changed:
                for partition in sorted(self._runs):
                    if self._runs[partition].since <= due_s:
                        self._close_run(partition)
                deliveries, self._ready = self._ready, []
                serials = list(itertools.islice(self._serial, len(deliveries)))
                self._flying.update(zip(serials, deliveries, strict=True))
            if not deliveries:
                return
            try:
                self._sink.put([delivery.entry for delivery in deliveries], lambda which, outcome: self._done(serials[which], outcome))
            except BaseException:
                with self._changed:
                    self._ready[:0] = [delivery for serial in serials if (delivery := self._flying.pop(serial, None)) is not None]
                raise

    def _done(self, serial: int, outcome: Position | Exception) -> None:
        with self._changed:
            self._settle(self._flying.pop(serial), outcome)
            self._changed.notify_all()

    def _settle(self, delivery: _Delivery, outcome: Position | Exception) -> None:
        self._bytes -= len(delivery.entry.value)
        if isinstance(outcome, Exception):
            for token in delivery.tokens:
                token.settle(outcome)
                self._failed.append((token.what, outcome))  # it waits on, until it is told
            return
        for index, token in enumerate(delivery.tokens):
            token.settle(Landed(self._sink.topic, self._sink.incarnation, outcome.partition, outcome.offset, index))
        self._waiting -= len(delivery.tokens)

    def _until(self, known: Callable[[], Known | None], timeout_s: float) -> Known | None:
        """Wait until there is an answer, telling of failures meanwhile; None when there is none in time."""
        end = time.monotonic() + timeout_s
        while True:
            self._tell()
            with self._changed:
                answer, left = known(), end - time.monotonic()
                if answer is not None or left <= 0:
                    return answer
                if self._telling or not self._failed:
                    self._changed.wait(left)

    def _all_told(self) -> bool | None:
        return (not self._failed and not self._telling) or None

    def _tell_all(self) -> None:
        """Tell of every failure, whatever `on_error` raises; then raise the first it raised."""
        raised: list[Exception] = []
        while True:
            try:
                self._until(self._all_told, TIMEOUT_S)
                break
            except Exception as error:  # noqa: BLE001  the others must be told of too
                raised.append(error)
        if raised:
            raise raised[0]

    def _tell(self) -> None:
        """Hand every failed event over, one at a time; an error of `on_error` is the caller's."""
        while True:
            with self._changed:
                if self._telling or not self._failed:
                    return
                if self._on_error is None:
                    raise NotDelivered(self._untold())
                what, error = self._failed.popleft()
                self._waiting -= 1
                self._telling = True
            try:
                self._on_error(what, error)
            finally:
                with self._changed:
                    self._telling = False
                    self._changed.notify_all()

    def _untold(self) -> list[Failure]:
        failed = list(self._failed)
        self._failed.clear()
        self._waiting -= len(failed)
        return failed

    def _linger(self) -> None:
        """The thread: packs go when they are full or old enough, failures are told when they are known."""
        while True:
            with self._changed:
                oldest = min((run.since for run in self._runs.values()), default=math.inf)
                left = oldest + self._linger_s - self._clock()
                if self._closed:
                    return
                tell = bool(self._failed) and self._on_error is not None and not self._telling
                if left > 0 and not self._ready and not tell:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
            try:
                self._hand_over(due_s=self._clock() - self._linger_s)
                if tell:
                    self._tell()
            except Exception:  # noqa: BLE001  the outer loop of a thread: what the sink refused still waits, and `send` will say so
                _log.exception("producer_thread_failed")
                self._stopping.wait(ERROR_PAUSE_S)


def _packed(partition: int, tokens: list[Token], least: int) -> list[_Delivery]:
    """One pack; halves when it is too large; a few events, and single ones that no pack can hold, go as JSON, cut if need be."""
    events = [token.what for token in tokens if isinstance(token.what, Event)]
    if len(events) >= max(least, 2):
        try:
            return [_Delivery(Entry(partition, encode_pack(events), PACK), tokens)]
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            middle = len(tokens) // 2
            return _packed(partition, tokens[:middle], least) + _packed(partition, tokens[middle:], least)
    return [_Delivery(Entry(partition, _message(event), key=_key(event)), [token]) for event, token in zip(events, tokens, strict=True)]


def _message(event: Event) -> bytes:
    """One event as JSON. What JSON cannot say, or is too long, is told as text that no reader takes for an event."""
    try:
        if event.value is not None and not math.isfinite(event.value):
            raise ValueError("JSON would say null, and the event would be accepted without it")
        body = encode_event(event)
    except (ValueError, TypeError, OverflowError):
        body = repr(event).encode("utf-8", "backslashreplace")
    return body if len(body) <= VALUE_BYTES_MAX else body[:BAD_BYTES_MAX]


def _key(event: Event) -> bytes:
    """What other clients route by; the partition is given, so nothing depends on it."""
    return str(event.user_id).encode("utf-8", "backslashreplace")
