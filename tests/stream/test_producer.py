"""The producer: everything sent is appended in order, at least once, whatever is in it, and an id tells a repetition."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import I64s
from storage.log import JSON, PACK, VALUE_BYTES_MAX, Entry, LogFull, Position, Record
from storage.log_lmdb import LmdbLog
from storage.state_memory import MemoryState
from stream.delivery import Appending
from stream.events import Event
from stream.ingest import EVENTS
from stream.producer import PACKED_MIN, Limits, Producer
from stream.routing import partition_of
from stream.shape import Shape
from stream.validation import refusals
from stream.wire import Decoded, decode
from tests.stream.event_logs import ingest_all, totals

EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=1000)
NOW_MS = 1_700_000_000_000


class Sink:
    """An append that remembers; it fails as long as it is told to."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.appends = 0
        self.full = False

    def __call__(self, entries: Sequence[Entry]) -> list[Position]:
        if self.full:
            raise LogFull("no room")
        assert all(len(entry.value) <= VALUE_BYTES_MAX for entry in entries)
        self.appends += 1
        self.entries += entries
        return [Position(entry.partition, 0, n) for n, entry in enumerate(entries)]

    def records(self, partition: int | None = None) -> list[Record]:
        kept = [entry for entry in self.entries if partition in (None, entry.partition)]
        return [Record(n, entry.partition, n, NOW_MS, entry.form, entry.value) for n, entry in enumerate(kept)]

    def decoded(self, partition: int | None = None) -> Decoded:
        return decode(self.records(partition))

    def told(self, partition: int = 0) -> list[str]:
        """Event ids and raw bodies of a partition, as they lie there."""
        found = self.decoded(partition)
        ids = zip(found.record.tolist(), found.index.tolist(), found.events.column("event_id").to_pylist(), strict=True)
        bad = [(b.record, b.index, b.raw.decode()) for b in found.bad]
        return [what for _, _, what in sorted([*ids, *bad])]


def event(number: int, user: str = "u") -> Event:
    return msgspec.structs.replace(EVENT, user_id=user, event_id=f"e{number}")


def sent(events: Sequence[Event], *, partitions: int = 1, linger_events: int = 250) -> Sink:
    sink = Sink()
    producer = Producer(Appending(sink, partitions), limits=Limits(linger_events=linger_events))
    for each in events:
        producer.send(each)
    producer.flush()
    return sink


@given(
    what=st.lists(st.one_of(st.integers(0, 6), st.none()), max_size=40),
    partitions=st.integers(1, 3),
    linger=st.integers(1, 7),
    flushes=st.sets(st.integers(0, 40)),
)
def test_order_holds_within_a_partition_and_raw_bodies_keep_their_place(
    what: list[int | None], partitions: int, linger: int, flushes: set[int]
) -> None:
    sink, wanted = Sink(), {p: list[str]() for p in range(partitions)}
    producer = Producer(Appending(sink, partitions), limits=Limits(linger_events=linger))
    for number, user in enumerate(what):
        if user is None:
            producer.send_raw(f"raw {number}".encode())
            wanted[0].append(f"raw {number}")
        else:
            producer.send(event(number, f"user {user}"))
            wanted[partition_of(f"user {user}", partitions)].append(f"e{number}")
        if number in flushes:
            producer.flush()
    producer.flush()
    assert {p: sink.told(p) for p in range(partitions)} == wanted
    assert not any(len(found) > linger for found in (decode([r]).events for r in sink.records()))


def test_partitions_are_those_of_routing_and_nothing_is_misrouted() -> None:
    users = [f"user {n}" for n in range(60)]
    sink = sent([event(n, user) for n, user in enumerate(users)], partitions=4)
    for partition in range(4):
        landed = sink.decoded(partition).events.column("user_id").to_pylist()
        assert landed == [user for user in users if partition_of(user, 4) == partition]


def test_an_id_is_made_once_and_the_same_when_a_flush_is_tried_again() -> None:
    sink = Sink()
    producer = Producer(sink, prefix="p")
    what = (EVENT, msgspec.structs.replace(EVENT, event_id=""), event(7))
    tokens = [producer.send(what[0]), producer.send_raw(b"{"), producer.send(what[1]), producer.send(what[2])]
    sink.full = True
    with pytest.raises(LogFull):
        producer.flush()
    assert not any(token.done for token in tokens)
    sink.full = False
    producer.flush()
    assert sink.told() == ["p-0", "{", "p-2", "e7"], "the number is the place in what was sent"
    assert [token.event_id for token in tokens] == ["p-0", "", "p-2", "e7"]
    producer.flush()
    assert sink.appends == 1


def test_two_producers_make_different_ids() -> None:
    first, second = sent([EVENT, EVENT]), sent([EVENT, EVENT])
    assert len({*first.told(), *second.told()}) == 4


def test_on_an_error_everything_waits_and_the_next_flush_appends_it() -> None:
    sink = Sink()
    sink.full = True
    producer = Producer(sink)
    for number in range(5):
        producer.send(event(number))
        with pytest.raises(LogFull):
            producer.flush()
    assert not sink.entries
    sink.full = False
    producer.flush()
    assert sink.told() == [f"e{n}" for n in range(5)]


def test_what_waits_is_bounded_also_when_nothing_can_be_appended() -> None:
    sink = Sink()
    producer = Producer(sink, limits=Limits(waiting_max=10))
    for number in range(10):
        producer.send(event(number))
    assert not sink.entries, "send returns at once"
    sink.full = True
    for _ in range(3):
        with pytest.raises(LogFull):
            producer.send(event(10))
        with pytest.raises(LogFull):
            producer.send_raw(b"{")
    sink.full = False
    producer.send(event(10))
    assert sink.told() == [f"e{n}" for n in range(10)], "a flush happened by itself"
    producer.flush()
    assert sink.told() == [f"e{n}" for n in range(11)], "what was refused was not taken"


def test_a_pack_that_is_too_large_is_split() -> None:
    noise = "".join(chr(0x4E00 + n % 5000) for n in range(10_000))
    sink = sent([msgspec.structs.replace(event(n), extra=noise) for n in range(240)])
    assert sink.told() == [f"e{n}" for n in range(240)]
    assert {entry.form for entry in sink.entries} == {PACK}
    assert len(sink.entries) > 2


@pytest.mark.parametrize(("events", "packs"), [(PACKED_MIN - 1, 0), (PACKED_MIN, 1), (2 * PACKED_MIN, 1)])
def test_a_few_events_are_no_pack_but_json(events: int, packs: int) -> None:
    sink = sent([event(n) for n in range(events)])
    assert [entry.form for entry in sink.entries] == ([PACK] if packs else [JSON] * events)
    assert sink.told() == [f"e{n}" for n in range(events)]


@pytest.mark.parametrize(("linger", "packs"), [(1, 0), (2, 5), (3, 3), (10, 1), (1000, 0)])
def test_so_many_events_share_a_pack(linger: int, packs: int) -> None:
    sink = sent([event(n) for n in range(10)], linger_events=linger)
    assert sum(entry.form == PACK for entry in sink.entries) == packs
    assert sink.told() == [f"e{n}" for n in range(10)]


@pytest.mark.parametrize("linger", [0, -1, 1001])
def test_a_linger_beyond_what_a_pack_holds_is_refused(linger: int) -> None:
    with pytest.raises(ValueError, match=rf"linger_events={linger} is outside 1\.\.1000"):
        Producer(Sink(), limits=Limits(linger_events=linger))


POISON: dict[str, dict[str, Any]] = {
    "huge": {"query": "x" * (VALUE_BYTES_MAX + 1)},
    "a time beyond 64 bits": {"ts_ms": 2**80},
    "a time beyond the bound": {"ts_ms": 2**62},
    "half a character in the user": {"user_id": "u\ud800"},
    "half a character in the context": {"context": {"a": "\udfff"}},
    "a context that is no JSON": {"context": {"a": object()}},
    "a user that is no text": {"user_id": 5},
    "no number": {"value": float("nan")},
    "no time": {"ts_ms": "soon"},
}


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("poison", POISON)
def test_what_cannot_be_packed_costs_one_dead_letter_and_its_neighbours_arrive(poison: str, alone: bool, partitions: int) -> None:
    bad = msgspec.structs.replace(event(99), **POISON[poison])
    around = [] if alone else [event(n, f"user {n}") for n in range(6)]
    sink = sent([*around[:3], bad, *around[3:]], partitions=partitions)
    decoded = sink.decoded()
    refused = refusals(decoded.events, append_ms_of(decoded), Shape())
    accepted = {name for row, name in enumerate(decoded.events.column("event_id").to_pylist()) if row not in refused}
    assert accepted == {each.event_id for each in around}
    assert len(decoded.bad) + len(refused) == 1


def append_ms_of(decoded: Decoded) -> I64s:
    return np.full(decoded.events.num_rows, NOW_MS, dtype=np.int64)


def test_raw_bodies_are_cut_and_never_empty() -> None:
    sink = Sink()
    producer = Producer(sink)
    producer.send_raw(b"")
    producer.send_raw(b"[" * 200_000)
    producer.flush()
    assert [(entry.form, entry.value) for entry in sink.entries] == [(JSON, b" "), (JSON, b"[" * 65_536)]
    assert len(sink.decoded().bad) == 2


def test_a_single_event_is_plain_json_for_anybody_to_read() -> None:
    (entry,) = sent([event(1)]).entries
    assert (entry.form, json.loads(entry.value)) == (
        JSON,
        {"user_id": "u", "action": "view", "ts_ms": 1000, "item_id": "i", "event_id": "e1"},
    )


def test_events_sent_twice_have_effect_once(tmp_path: Path) -> None:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 26) as log:
        lost = [True, False]

        def append(entries: Sequence[Entry]) -> list[Position]:
            positions = log.append(EVENTS, entries, now_ms=NOW_MS)
            if lost.pop(0):
                raise ConnectionError("the answer was lost")
            return positions

        producer = Producer(append)
        for _ in range(5):
            producer.send(EVENT)
        with pytest.raises(ConnectionError):
            producer.flush()
        producer.flush()
        assert totals(ingest_all(log, MemoryState(), Shape())) == {"accepted": 10, "duplicates": 5}
