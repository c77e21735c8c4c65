"""The cluster form's services as the settings name them: Kafka, Redis, and the state in it.

with services(settings) as site: site.state.watermarks("events")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis

from freshet.settings import Settings
from storage.state_redis import RedisState
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.shape import Shape

TIMEOUT_S = 5.0


class ServiceUnreachable(RuntimeError):
    """A service of the cluster does not answer, or is not named; the message says which and what to do."""


@dataclass(frozen=True)
class Services:
    """What a process of the cluster works with."""

    kafka: Kafka
    log: KafkaLog
    state: RedisState
    shape: Shape


def kafka_of(settings: Settings) -> Kafka:
    """How Kafka is reached. Raises `ServiceUnreachable` when no broker is set, ValueError for settings that do not go together."""
    if not settings.kafka:
        raise ServiceUnreachable("no brokers are set: name them (FRESHET_KAFKA=host:port,host:port)")
    return Kafka(
        settings.kafka, protocol=settings.kafka_protocol, user=settings.kafka_user, password=settings.kafka_password.get_secret_value(),
        mechanism=settings.kafka_mechanism, ca=settings.kafka_ca, certificate=settings.kafka_certificate, key=settings.kafka_key,
        prefix=settings.kafka_prefix,
    )  # fmt: skip


def redis_of(settings: Settings) -> "redis.Redis | redis.RedisCluster":
    """A client that has answered once. Raises `ServiceUnreachable`; the password is in no message."""
    address = urlsplit(settings.redis)
    if address.password or address.scheme not in ("redis", "rediss"):
        raise ServiceUnreachable("redis is redis://host:port or rediss://host:port; a password belongs into FRESHET_REDIS_PASSWORD")
    security = {"username": settings.redis_user or None, "password": settings.redis_password.get_secret_value() or None}
    if address.scheme == "rediss" and settings.redis_ca is not None:
        security["ssl_ca_certs"] = str(settings.redis_ca)
    make = redis.RedisCluster.from_url if settings.redis_cluster else redis.Redis.from_url
    try:
        client = make(settings.redis, socket_connect_timeout=TIMEOUT_S, **security)
        client.ping()
    except redis.RedisError as error:
        where = f"{address.hostname}:{address.port}"
        raise ServiceUnreachable(f"Redis at {where} ({address.scheme}): {error}: is it up, are address and password right?") from error
    return client


@contextmanager
def services(settings: Settings) -> Iterator[Services]:
    """Kafka's log and Redis' state, its shape compared with the stored one. Raises `ServiceUnreachable`, `ShapeChanged`."""
    kafka, shape = kafka_of(settings), Shape(partitions=settings.partitions)
    state = RedisState(redis_of(settings), partitions=shape.partitions, prefix=settings.redis_prefix)
    try:
        state.shape(shape.record())
        with KafkaLog(kafka) as log:
            yield Services(kafka, log, state, shape)
    finally:
        state.close()
