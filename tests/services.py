"""Kafka, Redis and a Redis Cluster for the tests: started on first use, shared by the run, stopped at its end.

What is missing skips the test with the command that installs it, and fails it where CI is set: there everything must be.
"""

import atexit
import os
import tempfile
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
import redis

from bench.services import KafkaServer, RedisCluster, RedisServer, ServiceUnavailable
from storage.state_redis import RedisState


class Startable(Protocol):
    """What is started and stopped here."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


def redis_state(*, partitions: int = 4096) -> RedisState:
    """An empty state of its own on the shared Redis."""
    return RedisState(redis.Redis.from_url(redis_server().url), partitions=partitions, prefix=uuid.uuid4().hex)


def redis_cluster_state(*, partitions: int = 4096) -> RedisState:
    """An empty state of its own on the shared Redis Cluster."""
    return RedisState(redis.RedisCluster.from_url(redis_cluster().url), partitions=partitions, prefix=uuid.uuid4().hex)


@cache
def redis_server() -> RedisServer:
    """The shared Redis."""
    return running(RedisServer)


@cache
def kafka_server() -> KafkaServer:
    """The shared Kafka."""
    return running(KafkaServer)


@cache
def redis_cluster() -> RedisCluster:
    """The shared Redis Cluster of three nodes."""
    return running(RedisCluster)


def running(make: Callable[[Path], S]) -> S:
    """Made in a folder of its own, started; stopped when the tests end."""
    folder = tempfile.TemporaryDirectory(prefix="freshet-service-")
    try:
        server = make(Path(folder.name))
        server.start()
    except ServiceUnavailable as error:
        folder.cleanup()
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error).splitlines()[0])
    atexit.register(folder.cleanup)
    atexit.register(server.stop)  # last in, first out: it stops before its folder goes
    return server
