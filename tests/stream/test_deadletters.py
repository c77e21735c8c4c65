"""Poison does not block: each bad input costs one dead letter with reason, origin and bytes; the rest goes on.

Invariant 9 of the design, input by input.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from storage.columns import EVENT_SCHEMA
from storage.ids import ITEM, USER, hash_id
from storage.log import JSON, PACK, VALUE_BYTES_MAX, Entry, LogFull
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import NAMES, Write
from storage.state_memory import MemoryState
from stream.deadletters import DeadLetter, decode, encode
from stream.events import Event
from stream.ingest import EVENTS, Applied, Ingest
from stream.shape import Shape
from stream.wire import PACK_EVENTS_MAX, encode_event, encode_pack
from tests.stream.event_logs import columns, ingest_all, letters, totals
from tests.stream.oracle import Oracle

NOW_MS = 1_700_000_000_000
EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=NOW_MS)
BODY = encode_event(EVENT)
PACKED = encode_pack([EVENT, EVENT, EVENT])


def with_field(text: bytes) -> bytes:
    return BODY[:-1] + b"," + text + b"}"


def foreign_pack(rows: int) -> bytes:
    batch = pa.record_batch({"user_id": ["u"] * rows})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def crowded_pack() -> bytes:
    batch = columns([EVENT] * (PACK_EVENTS_MAX + 1))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, EVENT_SCHEMA) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def fed(tmp_path: Path, entries: Sequence[Entry]) -> tuple[Applied, list[DeadLetter], Ingest]:
    """Append, ingest, and read the dead letters back."""
    with LmdbLog(tmp_path, log_bytes_max=1 << 28) as log:
        log.append(EVENTS, entries, now_ms=NOW_MS)
        state = MemoryState()
        ingest = Ingest(state, log, Shape(), names=Names(state))
        ingest.claim()
        applied = ingest.apply(log.read(EVENTS, 0, 0), now_ms=NOW_MS + 5)
        return applied, letters(log), ingest


BAD = {
    "an empty message": (JSON, b"", "unreadable event"),
    "malformed JSON": (JSON, BODY[:-1], "unreadable event"),
    "a missing field": (JSON, b'{"user_id":"u","action":"view","item_id":"i"}', "unreadable event"),
    "a missing item": (JSON, b'{"user_id":"u","action":"view","ts_ms":5}', "item_id is missing"),
    "a wrong type": (JSON, BODY.replace(b'"u"', b"7"), "unreadable event"),
    "a time far in the future": (JSON, BODY.replace(b"1700000000000", b"1800000000000"), "ts_ms is more than a day after"),
    "a huge integer": (JSON, BODY.replace(b"1700000000000", b"9" * 400), "unreadable event"),
    "a NaN value": (JSON, with_field(b'"value":NaN'), "unreadable event"),
    "an unknown action": (JSON, BODY.replace(b"view", b"levitate"), "unknown action"),
    "bytes that are not UTF-8": (JSON, BODY.replace(b'"u"', b'"\xff"'), "unreadable event"),
    "a lone surrogate": (JSON, BODY.replace(b'"u"', b'"\\udc80"'), "unreadable event"),
    "deep nesting": (JSON, with_field(b'"new":' + b"[" * 100_000 + b"]" * 100_000), "unreadable event"),
    "a long string": (JSON, with_field(b'"session_id":"' + b"x" * 900_000 + b'"'), "session_id is longer than 256 bytes"),
    "a truncated pack": (PACK, PACKED[:-300], "unreadable pack"),
    "a bit-flipped pack": (PACK, PACKED.replace(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", 1), "unreadable pack"),
    "an empty pack message": (PACK, b"", "unreadable pack"),
    "JSON said to be a pack": (PACK, BODY, "unreadable pack"),
    "a pack said to be JSON": (JSON, PACKED, "unreadable event"),
    "a pack of another schema": (PACK, foreign_pack(2), "unreadable pack"),
    "a pack of too many events": (PACK, crowded_pack(), "unreadable pack"),
}


@pytest.mark.parametrize("name", BAD)
def test_poison_does_not_block(name: str, tmp_path: Path) -> None:
    form, body, reason = BAD[name]
    applied, dead, ingest = fed(tmp_path, [Entry(0, BODY), Entry(0, body, form), Entry(0, BODY)])
    assert (applied.events, applied.records) == (2, 3)
    (letter,) = dead
    assert letter.reason.startswith(reason)
    assert (letter.topic, letter.incarnation, letter.partition, letter.offset, letter.index) == (EVENTS, 0, 0, 1, 0)
    assert letter.raw == body[:65_536] and letter.append_ms == NOW_MS
    assert totals(ingest) == {"accepted": 2, "dead": 1}
    assert ingest.tallies[0].dead_letters == {letter.kind: 1}


def test_poison_does_not_block_a_pack_with_bad_rows_keeps_its_good_ones(tmp_path: Path) -> None:
    rows = [EVENT, msgspec.structs.replace(EVENT, value=float("nan")), EVENT, msgspec.structs.replace(EVENT, ts_ms=-1, shown=["a"])]
    applied, dead, _ = fed(tmp_path, [Entry(0, encode_pack(columns(rows)), PACK)])
    assert applied.events == 2
    assert [(letter.offset, letter.index) for letter in dead] == [(0, 1), (0, 3)]
    assert [msgspec.json.decode(letter.raw)["ts_ms"] for letter in dead] == [NOW_MS, -1]
    assert msgspec.json.decode(dead[1].raw)["shown"] == ["a"]


def test_a_pack_of_no_rows_is_no_poison(tmp_path: Path) -> None:
    applied, dead, _ = fed(tmp_path, [Entry(0, encode_pack([]), PACK), Entry(0, encode_pack([]), PACK)])
    assert (applied.events, applied.records, dead) == (0, 2, [])


def test_unusual_but_valid_input_is_accepted(tmp_path: Path) -> None:
    odd = [
        with_field(b'"context":{"huge":%s,"nul":"\\u0000"}' % (b"9" * 300)),
        with_field(b'"unknown":{"deep":[[[]]]}'),
        BODY.replace(b'"u"', b'"\\u0000"'),
        BODY.replace(b'"u"', '"😀"'.encode()),
        with_field(b'"user_id":"twice"'),
    ]
    applied, dead, _ = fed(tmp_path, [Entry(0, body) for body in odd])
    assert (applied.events, dead) == (len(odd), [])


def test_ten_megabytes_are_refused_by_the_log_with_the_way_out(tmp_path: Path) -> None:
    with LmdbLog(tmp_path, log_bytes_max=1 << 28) as log:
        with pytest.raises(ValueError, match=r"10000000 bytes is above the bound of 1048576: send fewer events"):
            log.append(EVENTS, [Entry(0, BODY), Entry(0, b"x" * 10_000_000)], now_ms=NOW_MS)
        assert log.end_offset(EVENTS, 0) == 0, "all or nothing"
        log.append(EVENTS, [Entry(0, b"x" * VALUE_BYTES_MAX)], now_ms=NOW_MS)
        assert totals(ingest_all(log, MemoryState(), Shape())) == {"dead": 1}


def test_an_id_that_belongs_to_another_name_is_a_dead_letter(tmp_path: Path) -> None:
    rows = [EVENT, msgspec.structs.replace(EVENT, item_id="other"), msgspec.structs.replace(EVENT, item_id="other", source_item_id="i")]
    with LmdbLog(tmp_path, log_bytes_max=1 << 28) as log:
        log.append(EVENTS, [Entry(0, encode_event(row)) for row in rows], now_ms=NOW_MS)
        state = MemoryState()
        state.commit([], [Write(NAMES, 0, np.array([hash_id("i", ITEM)], dtype=np.uint64), [bytes([ITEM]) + b"somebody else"])])
        assert totals(ingest_all(log, state, Shape())) == {"accepted": 1, "dead": 2}
        assert [(letter.offset, letter.kind) for letter in letters(log)] == [(0, "id collision"), (2, "id collision")]
        names = Names(state)
        assert names.name(hash_id("i", ITEM), 0) == "somebody else"
        assert names.name(hash_id("other", ITEM), 0) == "other" and names.name(hash_id("u", USER), 0) == "u"


def test_a_misrouted_record_is_a_dead_letter_that_names_the_setting(tmp_path: Path) -> None:
    shape = Shape(partitions=3)
    right = Oracle(shape).partition("u")
    wrong = (right + 1) % 3
    mixed = [EVENT, msgspec.structs.replace(EVENT, user_id="v" * 3)]
    strays = sum(Oracle(shape).partition(event.user_id) != wrong for event in mixed)
    with LmdbLog(tmp_path, partitions=3, log_bytes_max=1 << 28) as log:
        log.append(EVENTS, [Entry(right, BODY), Entry(wrong, BODY), Entry(wrong, encode_pack(mixed), PACK)], now_ms=NOW_MS)
        state = MemoryState()
        ingest = ingest_all(log, state, shape)
        dead = letters(log)
        assert len(dead) == 1 + strays and {letter.kind for letter in dead} == {"misrouted"}
        assert all("partitioner=murmur2_random" in letter.reason and letter.partition == wrong for letter in dead)
        assert ingest.tallies[wrong].dead_letters == {"misrouted": 1 + strays} and ingest.tallies[right].accepted == 1
        assert state.watermarks(EVENTS) == {right: 1, wrong: 2, 3 - right - wrong: 0}


def test_a_full_log_stops_before_the_commit_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """Nothing is half applied: the dead letter could not be written, so neither is the state; after truncation it goes on."""
    with LmdbLog(tmp_path, log_bytes_max=1 << 20) as log:
        state = MemoryState()
        ingest = Ingest(state, log, Shape(), names=Names(state))
        ingest.claim()
        log.append(EVENTS, [Entry(0, BODY)], now_ms=NOW_MS)
        ingest.apply(log.read(EVENTS, 0, 0), now_ms=NOW_MS)
        log.append(EVENTS, [Entry(0, b"?" * 100)], now_ms=NOW_MS)
        with pytest.raises(LogFull):
            for _ in range(100):
                log.append("elsewhere", [Entry(0, b"x" * 30_000)], now_ms=NOW_MS)
        with pytest.raises(LogFull):
            for _ in range(1000):
                log.append("elsewhere", [Entry(0, b"x" * 200)], now_ms=NOW_MS)
        with pytest.raises(LogFull):
            ingest.apply(log.read(EVENTS, 0, 1), now_ms=NOW_MS)
        assert state.watermarks(EVENTS) == {0: 1} and totals(ingest) == {"accepted": 1}
        log.truncate("elsewhere", log.next_number("elsewhere"))
        ingest.apply(log.read(EVENTS, 0, 1), now_ms=NOW_MS)
        assert totals(ingest) == {"accepted": 1, "dead": 1} and len(letters(log)) == 1


def test_a_letter_survives_its_own_format() -> None:
    letter = DeadLetter(
        topic=EVENTS, incarnation=2, partition=1, offset=7, index=3, reason="misrouted: x", append_ms=9, raw=bytes(range(256))
    )
    assert decode(encode(letter)) == letter
    assert letter.origin == (EVENTS, 2, 1, 7, 3) and letter.kind == "misrouted"
