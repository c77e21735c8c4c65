"""Our reading of fetched bytes against kafka-python's own: the same records, the same places, the same refusals."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from storage.log import JSON, PACK, Record
from stream import kafka_records
from stream.kafka_records import PACK_HEADER, BatchRecords, parse

WHERE = TopicPartition("events", 3)
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
ABORT, COMMIT = 0, 1
Header = tuple[str, bytes | None]
Message = tuple[int, bytes | None, bytes | None, list[Header]]

BODIES = st.none() | st.binary(max_size=300)
NAMES = st.sampled_from(["form", "", "trace", "größe", "x" * 100]) | st.text(max_size=4)
HEADERS = st.lists(st.just(PACK_HEADER) | st.tuples(NAMES, st.none() | st.sampled_from([b"pack", b"packs", b""])), max_size=3)
STAMPS = st.integers(-1, 2**45)
MESSAGES: st.SearchStrategy[list[Message]] = st.lists(st.tuples(STAMPS, BODIES, BODIES, HEADERS), min_size=1, max_size=12)


@dataclass(frozen=True)
class Aborted:
    """As a broker names a transaction that was aborted."""

    producer_id: int
    first_offset: int


def batch(messages: Sequence[Message], *, first: int = 0, codec: int = 0, attributes: int = 0, producer: int = -1) -> bytes:
    """A batch as a broker stores it, with attributes that only brokers set."""
    builder = MemoryRecordsBuilder(
        2, codec, 1 << 24, transactional=bool(attributes & TRANSACTIONAL), producer_id=producer, producer_epoch=0, base_sequence=0
    )
    for stamp, key, value, headers in messages:
        builder.append(stamp, key, value, headers)
    builder.close()
    return sealed(bytearray(builder.buffer()), first=first, attributes=attributes)


def sealed(body: bytearray, *, first: int, attributes: int = 0) -> bytes:
    """With its first offset, its attributes and a checksum that fits."""
    struct.pack_into(">q", body, 0, first)
    struct.pack_into(">i", body, 8, len(body) - 12)
    body[22] |= attributes
    struct.pack_into(">I", body, 17, calc_crc32c(memoryview(body)[21:]))
    return bytes(body)


def marker(first: int, *, kind: int, producer: int) -> bytes:
    return batch([(0, struct.pack(">hh", 0, kind), b"", [])], first=first, attributes=CONTROL | TRANSACTIONAL, producer=producer)


def read(how: Any, body: bytes, *, at: int = 0, aborted: Sequence[Aborted] = (), take: int = 10_000, check: bool = True) -> list[object]:
    """Everything a reader gives, take by take, each with its place behind it and the reader's epoch; an error as its kind."""
    part = how(
        at, WHERE, MemoryRecords(body), check_crcs=check, isolation_level=IsolationLevel.READ_COMMITTED, aborted_transactions=aborted
    )
    told: list[object] = []
    for _ in range(1000):
        if not part:
            return [*told, part.records_read, part.bytes_read > 0]
        try:
            told.append(([as_record(record) for record in part.take(take)], part.next_fetch_offset, part.leader_epoch))
        except CorruptRecordError:
            return [*told, "corrupt"]
    raise AssertionError("it does not end")


def as_record(record: Any) -> Record:
    if isinstance(record, Record):
        return record
    form = PACK if PACK_HEADER in record.headers else JSON
    return Record(record.offset, record.partition, record.offset, record.timestamp, form, record.value or b"", record.key or b"")


def same(body: bytes, **options: Any) -> list[object]:
    ours, theirs = read(BatchRecords, body, **options), read(Fetcher.PartitionRecords, body, **options)
    assert ours == theirs
    return ours


@given(
    st.lists(st.tuples(MESSAGES, st.sampled_from([0, 1]), st.sampled_from([0, LOG_APPEND_TIME])), min_size=1, max_size=4),
    st.integers(0, 2**40), st.integers(0, 20), st.integers(1, 30),
)  # fmt: skip
def test_batches_are_read_as_kafka_python_reads_them(
    batches: list[tuple[list[Message], int, int]], first: int, skipped: int, take: int
) -> None:
    body, offset = b"", first
    for messages, codec, attributes in batches:
        body += batch(messages, first=offset, codec=codec, attributes=attributes)
        offset += len(messages) + 2  # a hole, as compaction leaves one
    told = same(body, at=first + skipped, take=take)
    assert told[-2:] == [sum(len(messages) for messages, _, _ in batches), True]
    same(body[:-1], at=first, take=take)  # a fetch may end in the middle of a batch


@given(MESSAGES, st.data())
def test_damage_is_refused_or_read_as_kafka_python_does(messages: list[Message], data: st.DataObject) -> None:
    body = bytearray(batch(messages))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(61, len(body) - 1))] = data.draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    same(bytes(body), check=False)
    told = same(bytes(body))
    assert told == ["corrupt"] or bytes(body) == batch(messages)


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["plain", "open", "abort", "commit"])), min_size=1, max_size=12))
def test_what_transactions_hide_stays_hidden(steps: list[tuple[int, str]]) -> None:
    """Three producers, each with transactions that end one way or the other."""
    body, offset, begun, aborted = b"", 0, dict[int, int](), list[Aborted]()
    for producer, step in steps:
        if step in ("plain", "open"):
            if step == "open":
                begun.setdefault(producer, offset)
            within = TRANSACTIONAL if producer in begun else 0
            body += batch([(0, None, b"%d" % offset, []), (0, b"k", b"", [])], first=offset, attributes=within, producer=producer)
            offset += 2
        else:
            body += marker(offset, kind=ABORT if step == "abort" else COMMIT, producer=producer)
            if step == "abort" and producer in begun:
                aborted.append(Aborted(producer, begun[producer]))
            begun.pop(producer, None)
            offset += 1
    same(body, aborted=aborted, take=3)


def test_an_aborted_transaction_is_passed_over_and_the_reader_stands_behind_its_marker() -> None:
    body = batch([(0, None, b"hidden", [])], attributes=TRANSACTIONAL, producer=7) + marker(1, kind=ABORT, producer=7)
    body += batch([(0, None, b"seen", [])], first=2, attributes=TRANSACTIONAL, producer=7) + marker(3, kind=COMMIT, producer=7)
    told = same(body, aborted=[Aborted(7, 0)])
    assert told == [([Record(2, 3, 2, 0, JSON, b"seen")], 4, 0), 1, True]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy", "xerial"])
def test_every_codec_is_read(codec: str) -> None:
    """kafka-python reads most only where more packages are installed."""
    messages: list[Message] = [(5, b"key", b"x" * 100_000, [PACK_HEADER]), (6, None, b"y", [])]
    plain = bytearray(batch(messages, first=9))
    flat = bytes(plain[61:])
    if codec == "xerial":
        blocks = [pa.compress(flat[at : at + 32768], codec="snappy", asbytes=True) for at in range(0, len(flat), 32768)]
        packed = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(block)) + block for block in blocks)
    elif codec == "snappy":
        packed = pa.compress(flat, codec="snappy", asbytes=True)
    else:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(flat)
        packed = sink.getvalue().to_pybytes()
    number = {"gzip": 1, "snappy": 2, "xerial": 2, "lz4": 3, "zstd": 4}[codec]
    whole = sealed(plain[:61] + packed, first=9, attributes=number)
    assert read(BatchRecords, whole)[0] == read(Fetcher.PartitionRecords, bytes(plain))[0]
    for end in (62, 70, len(packed) // 2 + 61, len(whole) - 1):
        assert "corrupt" in read(BatchRecords, sealed(bytearray(whole[:end]), first=9))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_batch_that_unpacks_to_too_much_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_records, "UNPACKED_BYTES_MAX", 1000)
    plain = bytearray(batch([(5, None, b"x" * 2000, [])]))
    sink = pa.BufferOutputStream()
    if number != 2:
        with pa.CompressedOutputStream(sink, {1: "gzip", 3: "lz4", 4: "zstd"}[number]) as stream:
            stream.write(bytes(plain[61:]))
    packed = pa.compress(bytes(plain[61:]), codec="snappy", asbytes=True) if number == 2 else sink.getvalue().to_pybytes()
    assert read(BatchRecords, sealed(plain[:61] + packed, first=0, attributes=number)) == ["corrupt"]


def test_batches_of_before_version_two_are_kafka_pythons_to_read() -> None:
    builder = MemoryRecordsBuilder(1, 0, 1 << 20)
    builder.append(5, b"k", b"v")
    builder.append(6, None, None)
    builder.close()
    assert len(same(bytes(builder.buffer()))) == 3


def test_the_kernel_reads_what_producers_send_by_itself() -> None:
    messages: list[Message] = [(n, b"u", b"{}", [PACK_HEADER] if n % 2 else []) for n in range(300)]
    body = MemoryRecords(batch(messages)).next_batch()
    found = parse(bytes(body._buffer[61:]), body, 3)
    assert found is not None and [record.form for record in found] == [JSON, PACK] * 150
