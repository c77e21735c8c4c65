"""Weights learned since a version went live: one record, of a file or shared by the processes of a cluster."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from storage.learned import Learned, LearnedFile, LearnedRedis, LearnedStore
from tests.services import redis_server


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LearnedStore]:
    if request.param == "file":
        yield LearnedFile(tmp_path / "weights.json")
        return
    client = redis.Redis.from_url(redis_server().url)
    yield LearnedRedis(client, uuid.uuid4().hex)
    client.close()


def damage(store: LearnedStore) -> None:
    if isinstance(store, LearnedFile):
        Path(store.where).write_bytes(b"{")
    else:
        redis.Redis.from_url(redis_server().url).set(store.where, b"{")


def test_what_was_written_is_read_and_the_next_version_replaces_it(store: LearnedStore) -> None:
    assert store.read() is None
    first, second = Learned("g1-1", 900, "{}"), Learned("g2-2", 1, "[]")
    store.write(first)
    assert store.read() == first
    store.write(second)
    assert store.read() == second


def test_a_damaged_record_is_told_and_written_over(store: LearnedStore) -> None:
    damage(store)
    with pytest.raises(msgspec.DecodeError):
        store.read()
    store.write(Learned("g1-1", 1, "{}"))
    assert store.read() == Learned("g1-1", 1, "{}")


def test_of_two_processes_the_one_that_learned_from_more_is_kept() -> None:
    client, prefix = redis.Redis.from_url(redis_server().url), uuid.uuid4().hex
    one, other = LearnedRedis(client, prefix), LearnedRedis(client, prefix)
    one.write(Learned("g1-1", 50, "one"))
    other.write(Learned("g1-1", 3, "other"))
    assert other.read() == Learned("g1-1", 50, "one")
    one.write(Learned("g1-1", 51, "one, later"))
    assert other.read() == Learned("g1-1", 51, "one, later")
    client.close()
