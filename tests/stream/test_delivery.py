"""What becomes of each event sent: acknowledged once or told of once, whatever the sink does and in whichever order."""

import itertools
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.services import wait_until
from storage.log import PACK, Entry, LogFull, Position, Record
from stream.delivery import Appending, BufferFull, Done, Landed, NotDelivered, Token
from stream.events import Event
from stream.producer import Limits, Producer
from stream.routing import partition_of
from stream.wire import decode

EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=1000)
LAZY = Limits(linger_events=3)
WAIT_S = 20.0


class Later:
    """A sink that is acknowledged when the test says so; closed, it gives up what is left, as a client's would."""

    topic, incarnation = "events", 7

    def __init__(self, partitions: int = 1, linger_s: float = math.inf) -> None:
        self.partitions, self.linger_s = partitions, linger_s
        self.flying: list[tuple[Entry, Callable[[Position | Exception], None]]] = []
        self.log: dict[int, list[Entry]] = {p: [] for p in range(partitions)}

    def put(self, entries: Sequence[Entry], done: Done) -> None:
        self.flying += [(entry, lambda outcome, which=which: done(which, outcome)) for which, entry in enumerate(entries)]  # type: ignore[misc]

    def land(self, count: int = 1 << 30) -> None:
        """Acknowledge the oldest."""
        taken, self.flying = self.flying[:count], self.flying[count:]
        for entry, told in taken:
            self.log[entry.partition].append(entry)
            at = len(self.log[entry.partition]) - 1
            told(Position(entry.partition, at, at))

    def fail(self, count: int = 1 << 30) -> None:
        """Refuse the oldest."""
        taken, self.flying = self.flying[:count], self.flying[count:]
        for _, told in taken:
            told(ConnectionError("the broker went away"))

    def close(self) -> None:
        self.fail()

    def ids(self) -> list[str]:
        """Everything that landed, partition by partition."""
        entries = [entry for partition in sorted(self.log) for entry in self.log[partition]]
        decoded = decode([Record(n, entry.partition, n, 1000, entry.form, entry.value) for n, entry in enumerate(entries)])
        return [str(name) for name in decoded.events.column("event_id").to_pylist()]


class Told:
    """An error callback that remembers."""

    def __init__(self) -> None:
        self.events: list[Event | bytes] = []
        self.errors: list[Exception] = []

    def __call__(self, what: Event | bytes, error: Exception) -> None:
        self.events.append(what)
        self.errors.append(error)

    def ids(self) -> list[str | None]:
        return [what.event_id if isinstance(what, Event) else None for what in self.events]


def event(number: int, user: str = "u") -> Event:
    return msgspec.structs.replace(EVENT, user_id=user, event_id=f"e{number}")


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_token_tells_where_its_event_landed() -> None:
    sink = Later(partitions=3)
    producer = Producer(sink, limits=LAZY, prefix="p")
    users = [next(f"user {n}" for n in itertools.count() if partition_of(f"user {n}", 3) == p) for p in (1, 1, 1, 2)]
    tokens = [producer.send(msgspec.structs.replace(EVENT, user_id=user)) for user in users]
    raw = producer.send_raw(b"{")
    with pytest.raises(TimeoutError, match="5 events are not acknowledged"):
        producer.flush(0.0)
    with pytest.raises(TimeoutError, match="'p-0' is not acknowledged"):
        tokens[0].result(0.0)
    sink.land()
    producer.flush()
    assert [token.result() for token in tokens] == [*(Landed("events", 7, 1, 0, n) for n in range(3)), Landed("events", 7, 2, 0, 0)]
    assert raw.result() == Landed("events", 7, 0, 0, 0) and raw.event_id == "" and raw.done
    assert [(entry.form == PACK, entry.key) for entry in sink.log[1] + sink.log[2]] == [(True, None), (False, users[3].encode())]


def test_what_fails_is_told_once_and_the_rest_is_not() -> None:
    sink, told = Later(), Told()
    producer = Producer(sink, limits=LAZY, on_error=told)
    tokens = [producer.send(event(n)) for n in range(7)]
    with pytest.raises(TimeoutError):
        producer.flush(0.0)
    sink.land(1)
    sink.fail(1)
    sink.land(1)
    producer.flush()
    assert told.ids() == ["e3", "e4", "e5"] and sink.ids() == ["e0", "e1", "e2", "e6"]
    assert [token.result().offset for token in (*tokens[:3], tokens[6])] == [0, 0, 0, 1]
    with pytest.raises(NotDelivered, match="went away") as refused:
        tokens[4].result()
    assert [what for what, _ in refused.value.failed] == [event(4)]
    producer.close()
    assert len(told.events) == 3


@pytest.mark.parametrize("how", ["send", "flush", "close"])
def test_without_a_callback_the_next_call_raises_with_all_that_failed(how: str) -> None:
    sink = Later()
    producer = Producer(sink, limits=LAZY)
    for number in range(4):
        producer.send(event(number))
    with pytest.raises(TimeoutError):
        producer.flush(0.0)
    sink.fail()
    calls: dict[str, Callable[[], object]] = {"send": lambda: producer.send(event(9)), "flush": producer.flush, "close": producer.close}
    with pytest.raises(NotDelivered, match="4 events were not acknowledged") as refused:
        calls[how]()
    assert [what.event_id for what, _ in refused.value.failed if isinstance(what, Event)] == ["e0", "e1", "e2", "e3"]
    producer.close()
    assert sink.ids() == [], "what was given to the call that raised was not taken"


@given(st.lists(st.sampled_from(["send", "send", "send", "raw", "land", "fail", "flush"]), max_size=60), st.integers(1, 3))
def test_every_event_is_acknowledged_once_or_told_once(steps: list[str], partitions: int) -> None:
    sink, told, tokens = Later(partitions), Told(), list[Token]()
    producer = Producer(sink, limits=Limits(linger_events=2, waiting_max=8, block_s=0.0), on_error=told)
    for number, step in enumerate(steps):
        try:
            if step == "send":
                tokens.append(producer.send(event(number, f"user {number % 5}")))
            elif step == "raw":
                tokens.append(producer.send_raw(f"raw {number}".encode()))
            elif step == "flush":
                producer.flush(0.0)
            else:
                getattr(sink, step)(2)
        except (BufferFull, TimeoutError):
            pass
    producer.close(0.0)
    landed = [token for token in tokens if isinstance(token._outcome, Landed)]
    assert all(token.done for token in tokens)
    assert Counter(map(id, told.events)) == Counter(id(token.what) for token in tokens if token not in landed)
    assert len({(at.partition, at.offset, at.index) for at in (token.result() for token in landed)}) == len(landed)
    assert sorted(sink.ids()) == sorted(token.event_id for token in landed if token.event_id)


def test_a_full_buffer_blocks_until_there_is_room() -> None:
    sink = Later()
    producer = Producer(sink, limits=Limits(linger_events=2, waiting_max=4, block_s=WAIT_S))
    for number in range(4):
        producer.send(event(number))
    assert not sink.flying, "what waits for a flush is not sent before it must"
    sending = in_background(lambda: producer.send(event(4)))
    wait_until(lambda: len(sink.flying) == 2, seconds=WAIT_S)
    assert sending.is_alive()
    sink.land(1)
    sending.join(WAIT_S)
    sink.land()
    with pytest.raises(TimeoutError):
        producer.flush(0.0)
    sink.land()
    producer.flush()
    assert sink.ids() == [f"e{n}" for n in range(5)]


@pytest.mark.parametrize("limits", [Limits(waiting_max=3, block_s=0.0), Limits(linger_events=1, waiting_bytes_max=150, block_s=0.0)])
def test_a_buffer_that_stays_full_refuses_and_says_what_to_do(limits: Limits) -> None:
    sink = Later()
    producer = Producer(sink, limits=limits)
    with pytest.raises(BufferFull, match=r"set a larger waiting_max or block_s") as refused:
        for number in range(10):
            producer.send(event(number))
    assert str(refused.value).startswith("3 events wait for an acknowledgement")
    sink.land()
    producer.send(event(99))
    with pytest.raises(TimeoutError):
        producer.flush(0.0)
    sink.land()
    assert sink.ids()[-1] == "e99" and len(sink.ids()) < 10


def test_events_linger_for_so_long_and_a_full_pack_goes_at_once() -> None:
    sink, now = Later(linger_s=5.0), [100.0]
    with Producer(sink, limits=Limits(linger_events=3, linger_s=0.01), clock=lambda: now[0]) as producer:
        for number in range(4):
            producer.send(event(number))
        wait_until(lambda: len(sink.flying) == 1, seconds=WAIT_S)
        assert decode([Record(0, 0, 0, 0, PACK, sink.flying[0][0].value)]).events.num_rows == 3
        now[0] += 0.02
        wait_until(lambda: len(sink.flying) == 2, seconds=WAIT_S)
        sink.land()
    assert sink.ids() == [f"e{n}" for n in range(4)]


def test_what_failed_may_be_sent_again_from_the_callback() -> None:
    sink, tokens = Later(linger_s=0.0), list[Token]()
    producer = Producer(sink, limits=Limits(waiting_max=2), on_error=lambda what, _: tokens.append(producer.send(what)))  # type: ignore[arg-type]
    first = [producer.send(event(n)) for n in range(2)]
    wait_until(lambda: len(sink.flying) == 2 or bool(sink.flying and sink.flying[0][0].form == PACK), seconds=WAIT_S)
    sink.fail()
    wait_until(lambda: len(tokens) == 2, seconds=WAIT_S)
    wait_until(lambda: bool(sink.flying), seconds=WAIT_S)
    landing = in_background(producer.close)
    while landing.is_alive():
        sink.land()
        landing.join(0.01)
    assert sorted(sink.ids()) == ["e0", "e1"] == sorted(token.event_id for token in tokens)
    assert all(token.done for token in first)


def test_a_callback_that_raises_does_not_keep_the_others_from_being_told() -> None:
    sink, told = Later(), Told()

    def on_error(what: Event | bytes, error: Exception) -> None:
        told(what, error)
        raise KeyError(what)

    producer = Producer(sink, limits=LAZY, on_error=on_error)
    for number in range(4):
        producer.send(event(number))
    with pytest.raises(KeyError):
        producer.close(0.0)
    assert told.ids() == [f"e{n}" for n in range(4)]


def test_a_closed_producer_gives_up_what_waits_and_takes_nothing_more() -> None:
    sink, told = Later(), Told()
    producer = Producer(sink, limits=LAZY, on_error=told)
    token = producer.send(event(0))
    producer.close(0.0)
    producer.close()
    assert told.ids() == ["e0"] and token.done
    with pytest.raises(RuntimeError, match="closed"):
        producer.send(event(1))


def test_at_the_end_what_the_log_refuses_is_told_with_its_reason() -> None:
    told = Told()

    def append(entries: Sequence[Entry]) -> list[Position]:
        raise LogFull(f"no room for {len(entries)}")

    producer = Producer(append, on_error=told)
    producer.send(event(0))
    producer.close()
    assert told.ids() == ["e0"] and str(told.errors[0]) == "no room for 1"


def test_the_thread_tries_again_what_the_log_refused(caplog: pytest.LogCaptureFixture) -> None:
    refusals, kept = [True, False], list[Entry]()

    def append(entries: Sequence[Entry]) -> list[Position]:
        if refusals.pop(0):
            raise LogFull("no room")
        kept.extend(entries)
        return [Position(0, n, n) for n in range(len(entries))]

    with caplog.at_level(logging.ERROR), Producer(Appending(append, linger_s=0.0)) as producer:
        assert producer.send(event(0)).result(WAIT_S).offset == 0
    assert len(kept) == 1 and "no room" in caplog.text


def test_threads_share_a_producer_and_each_users_order_holds() -> None:
    sink = Later(partitions=3)

    def append(entries: Sequence[Entry]) -> list[Position]:
        found = []
        for entry in entries:
            sink.log[entry.partition].append(entry)
            found.append(Position(entry.partition, len(sink.log[entry.partition]) - 1, 0))
        return found

    with Producer(Appending(append, 3, linger_s=0.001), limits=Limits(linger_events=20, waiting_max=200)) as producer:
        made: list[list[Token]] = [[] for _ in range(4)]

        def work(who: int) -> None:
            made[who] += [producer.send(msgspec.structs.replace(EVENT, user_id=f"user {who}")) for _ in range(400)]

        for thread in [in_background(lambda who=who: work(who)) for who in range(4)]:  # type: ignore[misc]
            thread.join(WAIT_S)
    assert len({token.event_id for tokens in made for token in tokens}) == 1600 == len(sink.ids())
    for tokens in made:
        places = [(at.offset, at.index) for at in (token.result() for token in tokens)]
        assert places == sorted(places) and len(set(places)) == 400


@pytest.mark.parametrize("name", ["waiting_max", "waiting_bytes_max"])
def test_a_buffer_without_room_for_anything_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: at least 1"):
        Limits(**{name: 0})
