"""Users go to the partition that every Kafka client with murmur2 sends them to."""

import warnings

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stream.routing import partition_of, partitions_of
from tests.stream.oracle import murmur2

with warnings.catch_warnings():  # kafka-python reads its schemas with a function that Python 3.11 calls old
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import murmur2 as kafka_murmur2


def kafka_partition(user_id: str, partitions: int) -> int:
    return int(kafka_murmur2(user_id.encode()) & 0x7FFFFFFF) % partitions


@given(st.lists(st.text(max_size=40), max_size=20), st.integers(1, 4096))
def test_routing_equals_kafkas(ids: list[str], partitions: int) -> None:
    routed = partitions_of(pa.array(ids, pa.string()), partitions)
    assert routed.dtype == np.int64
    assert routed.tolist() == [kafka_partition(name, partitions) for name in ids]


@given(st.binary(max_size=80))
def test_the_oracles_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) & 0xFFFFFFFF


def test_a_slice_of_a_column_is_routed_like_its_rows() -> None:
    names = [f"user {n}" * (n % 4) for n in range(50)]
    column = pa.array(names, pa.string())
    for begin, length in ((0, 50), (7, 20), (49, 1), (50, 0)):
        routed = partitions_of(column.slice(begin, length), 12)
        assert routed.tolist() == [partition_of(name, 12) for name in names[begin : begin + length]]


def test_users_are_spread_evenly() -> None:
    share = np.bincount(partitions_of(pa.array([f"u{n}" for n in range(12_000)]), 12), minlength=12) / 1000
    assert share.min() > 0.9 and share.max() < 1.1
