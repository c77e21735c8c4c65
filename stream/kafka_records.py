"""Fetched bytes to records: what kafka-python does record by record in Python, done batch by batch in a kernel.

kafka-python stays in charge of everything but the records of a batch: which batches there are, their checksums, what a
transaction hides, and the reader's position. A batch that the kernel finds unusual is read by kafka-python itself. Codecs
are pyarrow's, so that a producer may compress as it likes.

    consumer = KafkaConsumer(...); read_in_batches(consumer)
    consumer.poll(100)  # {TopicPartition: [storage.log.Record, ...]}
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch
from numba import njit

from storage.arrays import I64s, U8s
from storage.log import JSON, PACK, Record

FORM_HEADER: Final = "form"
PACK_HEADER: Final = (FORM_HEADER, b"pack")
UNPACKED_BYTES_MAX: Final = 256 << 20
"""Of one compressed batch: a broker takes it by its compressed size."""
_MAGIC: Final = 2
_STREAMED: Final = {1: "gzip", 3: "lz4", 4: "zstd"}
_SNAPPY: Final = 2
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD: Final = 16
_FIELDS: Final = 7
_OFFSET, _STAMP, _KEY, _KEY_END, _VALUE, _VALUE_END, _FORM = range(_FIELDS)
_UNUSUAL: Final = -1
_PACK_KEY: Final = np.frombuffer(FORM_HEADER.encode(), np.uint8)
_PACK_VALUE: Final = np.frombuffer(PACK_HEADER[1], np.uint8)


def read_in_batches(consumer: KafkaConsumer) -> None:
    """From now on the consumer's `poll` gives `Record`s, read by a kernel."""
    consumer._fetcher.PartitionRecords = BatchRecords


class BatchRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """The records of one fetched partition. The order of the steps is that of the method it stands for."""

    def _unpack_records(self, tp: TopicPartition, records: Any, key_deserializer: Any, value_deserializer: Any) -> Iterator[Record]:
        last = None
        while (batch := records.next_batch()) is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"the batch of {tp} at offset {batch.base_offset} is not what its checksum says")
            if batch.magic == _MAGIC and self._hidden(batch):
                self.next_fetch_offset = batch.next_offset
                continue
            self.bytes_read += batch.size_in_bytes
            for record in _records(batch, tp.partition):
                self.records_read += 1
                self.next_fetch_offset = record.offset + 1
                yield record
        if last is not None and last.magic == _MAGIC:
            self.next_fetch_offset = last.next_offset  # a batch keeps its last offset also when compaction took the record
        self.drain()

    def _hidden(self, batch: DefaultRecordBatch) -> bool:
        """Whether nobody may see the batch: a marker, or part of a transaction that was aborted."""
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def _records(batch: Any, partition: int) -> Iterable[Record]:
    if batch.magic != _MAGIC:
        return _one_by_one(batch, partition)
    if batch.compression_type:  # as the batch would do it by itself, were the codec there
        batch._buffer, batch._pos, batch._decompressed = _unpacked(bytes(batch._buffer[batch._pos :]), batch.compression_type), 0, True
    parsed = parse(bytes(memoryview(batch._buffer)[batch._pos :]), batch, partition)
    return parsed if parsed is not None else _one_by_one(batch, partition)


def parse(body: bytes, batch: DefaultRecordBatch, partition: int) -> list[Record] | None:
    """The records of a batch's unpacked body; None where kafka-python should look for itself."""
    table = np.empty((_FIELDS, max(batch.records_count, 0)), dtype=np.int64)
    if _parsed(np.frombuffer(body, np.uint8), table, _PACK_KEY, _PACK_VALUE) != len(body):
        return None
    offsets = (table[_OFFSET] + batch.base_offset).tolist()
    stamps = repeat(batch.max_timestamp) if batch.timestamp_type else (table[_STAMP] + batch.first_timestamp).tolist()
    keys, values = (map(body.__getitem__, map(slice, table[field].tolist(), table[field + 1].tolist())) for field in (_KEY, _VALUE))
    rows = zip(offsets, repeat(partition), offsets, stamps, table[_FORM].tolist(), values, keys, strict=False)
    return list(map(tuple.__new__, repeat(Record), rows))  # as Record._make, without a Python call for each


def _one_by_one(batch: Any, partition: int) -> Iterator[Record]:
    """kafka-python's own reading, with its errors."""
    for record in batch:
        if not record.validate_crc():
            raise CorruptRecordError(f"the record at offset {record.offset} of partition {partition} is not what its checksum says")
        form = PACK if PACK_HEADER in record.headers else JSON
        yield Record(record.offset, partition, record.offset, record.timestamp, form, record.value or b"", record.key or b"")


def _unpacked(data: bytes, codec: int) -> bytes:
    """A compressed body. Raises `CorruptRecordError` for what cannot be unpacked, or to more than UNPACKED_BYTES_MAX."""
    try:
        if codec == _SNAPPY:
            body = _unsnapped(data)
        else:
            with pa.CompressedInputStream(pa.BufferReader(data), _STREAMED[codec]) as stream:
                body = stream.read(UNPACKED_BYTES_MAX + 1)
    except (pa.ArrowException, OSError, KeyError, IndexError, struct.error) as error:
        raise CorruptRecordError(f"a batch of codec {codec} cannot be unpacked: {error}") from error
    if len(body) > UNPACKED_BYTES_MAX:
        raise CorruptRecordError(f"a batch of {len(data)} bytes unpacks to more than the bound of {UNPACKED_BYTES_MAX}")
    return body


def _unsnapped(data: bytes) -> bytes:
    """Snappy as Java writes it, in blocks behind a head, or plain."""
    if not data.startswith(_XERIAL):
        return _unsnapped_block(data, 0)
    at, blocks, size = _XERIAL_HEAD, [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        blocks.append(_unsnapped_block(data[at + 4 : at + 4 + max(length, 0)], size))
        size += len(blocks[-1])
        at += 4 + max(length, 0)
    return b"".join(blocks)


def _unsnapped_block(block: bytes, before: int) -> bytes:
    """One block, which begins with its size unpacked, as a varint; `before`: how much was unpacked already."""
    size = shift = at = 0
    while True:
        size |= (block[at] & 0x7F) << shift
        if not block[at] & 0x80:
            break
        at, shift = at + 1, shift + 7
    if before + size > UNPACKED_BYTES_MAX:
        raise OSError(f"it says it holds {before + size} bytes, the bound is {UNPACKED_BYTES_MAX}")
    body: bytes = pa.decompress(block, size, codec="snappy", asbytes=True)
    return body


@njit(cache=True, nogil=True)
def _varint(body: U8s, at: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits, and where the next begins: -1 where there is none."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < len(body) and shift < 64:
        byte = np.uint64(body[at])
        if shift == 63 and byte > 1:
            return 0, -1
        value |= (byte & np.uint64(0x7F)) << shift
        at += 1
        if byte < 128:
            return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))), at
        shift += np.uint64(7)
    return 0, -1


@njit(cache=True, nogil=True)
def _span(body: U8s, at: int) -> tuple[int, int]:
    """Begin and end of a text behind its length; a missing one (length -1) is empty. (0, -1) where it leads out of the body."""
    length, at = _varint(body, at)
    if at < 0 or length < -1 or length > len(body) - at:
        return 0, -1
    return at, at + max(length, 0)


@njit(cache=True, nogil=True)
def _is(body: U8s, begin: int, end: int, text: U8s) -> bool:
    if end - begin != len(text):
        return False
    for n in range(len(text)):
        if body[begin + n] != text[n]:
            return False
    return True


@njit(cache=True, nogil=True)
def _headers(body: U8s, at: int, pack_key: U8s, pack_value: U8s) -> tuple[int, int]:
    """The form its headers tell, and where they end: -1 for what is unusual. A name outside ASCII is for others to read."""
    form = 0
    count, at = _varint(body, at)
    if at < 0 or count < 0:
        return 0, -1
    for _ in range(count):
        length, _ = _varint(body, at)
        name, name_end = _span(body, at)
        if name_end < 0 or length < 0:
            return 0, -1
        for n in range(name, name_end):
            if body[n] >= 128:
                return 0, -1
        value, value_end = _span(body, name_end)
        if value_end < 0:
            return 0, -1
        if _is(body, name, name_end, pack_key) and _is(body, value, value_end, pack_value):
            form = 1
        at = value_end
    return form, at


@njit(cache=True, nogil=True)
def _parsed(body: U8s, table: I64s, pack_key: U8s, pack_value: U8s) -> int:
    """Fill the table, a column a record; returns where the last one ends, -1 for a body that is not simply so many records."""
    at = 0
    for n in range(table.shape[1]):
        length, at = _varint(body, at)
        if at < 0 or length < 0 or length > len(body) - at:
            return -1
        end = at + length
        _, at = _varint(body, at)  # attributes: there are none yet
        if at < 0:
            return -1
        table[1, n], at = _varint(body, at)
        if at < 0:
            return -1
        table[0, n], at = _varint(body, at)
        if at < 0:
            return -1
        table[2, n], table[3, n] = _span(body, at)
        if table[3, n] < 0:
            return -1
        table[4, n], table[5, n] = _span(body, table[3, n])
        if table[5, n] < 0:
            return -1
        table[6, n], at = _headers(body, table[5, n], pack_key, pack_value)
        if at != end:
            return -1
    return at
