"""The cluster form's services as the settings name them: Kafka, Redis, the state in it, and the archive.

with services(settings) as site: site.state.watermarks("events")
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from redis.exceptions import MovedError, NoPermissionError, RedisClusterException

from freshet.settings import Settings
from storage.archive import Archive
from storage.places import Place, place_of
from storage.state import check_shape
from storage.state_redis import RedisState
from stream.kafka import Kafka, unreachable
from stream.log_kafka import KafkaLog
from stream.shape import Shape

TIMEOUT_S = 5.0
REDIS_ADDRESS: Final = re.compile(r"rediss?://(\[[0-9a-fA-F:.]+\]|[^@/?#:\[\]\s]+)(:[0-9]{1,5})?(/[0-9]*)?")
REDIS_ERRORS: Final = (redis.RedisError, RedisClusterException)
"""The second is not of the first."""


class ServiceUnreachable(RuntimeError):
    """A service of the cluster does not answer, or is not named; the message says which and what to do."""


@dataclass(frozen=True)
class Services:
    """What a process of the cluster works with. `client` and `prefix` reach what lies in Redis beside the state."""

    kafka: Kafka
    log: KafkaLog
    state: RedisState
    shape: Shape
    client: Any
    """Its types know text and bytes, but not which."""
    prefix: str
    group: str


def kafka_of(settings: Settings) -> Kafka:
    """How Kafka is reached. Raises `ServiceUnreachable` when no broker is set, or for settings that do not go together."""
    if not settings.kafka:
        raise ServiceUnreachable("no brokers are set: name them (FRESHET_KAFKA=host:port,host:port)")
    try:
        return Kafka(
            settings.kafka, protocol=settings.kafka_protocol, user=settings.kafka_user, password=settings.kafka_password.get_secret_value(),
            mechanism=settings.kafka_mechanism, ca=settings.kafka_ca, certificate=settings.kafka_certificate, key=settings.kafka_key,
            prefix=settings.kafka_prefix,
        )  # fmt: skip
    except ValueError as error:
        raise ServiceUnreachable(f"Kafka's settings: {error}") from error


def redis_of(settings: Settings) -> "redis.Redis | redis.RedisCluster":
    """A client that has answered once. Raises `ServiceUnreachable`; the password is in no message."""
    if REDIS_ADDRESS.fullmatch(settings.redis) is None:
        raise ServiceUnreachable("redis is redis://host:port or rediss://host:port; a password belongs into FRESHET_REDIS_PASSWORD")
    security = {"username": settings.redis_user or None, "password": settings.redis_password.get_secret_value() or None}
    if settings.redis.startswith("rediss:") and settings.redis_ca is not None:
        if not settings.redis_ca.is_file():
            raise ServiceUnreachable(f"{settings.redis_ca} is no file: set FRESHET_REDIS_CA to one")
        security["ssl_ca_certs"] = str(settings.redis_ca)
    make = redis.RedisCluster.from_url if settings.redis_cluster else redis.Redis.from_url
    try:
        client = make(settings.redis, socket_connect_timeout=TIMEOUT_S, **security)
        client.ping()
    except REDIS_ERRORS as error:
        raise _redis_told(settings, error) from error
    return client


def archive_of(settings: Settings, *, read_only: bool = True) -> Archive:
    """The cluster's archive: folder `archive` of the store. Raises ValueError for a store that is no place."""
    return Archive(store_of(settings, "archive"), read_only=read_only)


def store_of(settings: Settings, folder: str) -> Place:
    """A folder of the store that all processes share. Raises ValueError for a store that is no place."""
    base, question, options = (settings.store or str(settings.data)).partition("?")
    return place_of(f"{base.rstrip('/')}/{folder}{question}{options}")


@contextmanager
def services(settings: Settings, *, looking: bool = False, anew: bool = False) -> Iterator[Services]:
    """Kafka's log and Redis' state, its shape compared with the stored one. Raises `ServiceUnreachable`, `ShapeChanged`.

    `looking`: a command that only looks stores no shape where there is none. `anew`: whatever the stored one is, it will be replaced.
    """
    kafka, shape = kafka_of(settings), Shape(partitions=settings.partitions)
    client = redis_of(settings)
    state = RedisState(client, partitions=shape.partitions, prefix=settings.redis_prefix)
    try:
        if not looking and not anew:
            state.shape(shape.record())
        elif looking and (stored := stored_shape(client, settings.redis_prefix)):
            check_shape(stored, shape.record())
        with KafkaLog(kafka) as log:
            yield Services(kafka, log, state, shape, client=client, prefix=settings.redis_prefix, group=settings.kafka_group)
    except REDIS_ERRORS as error:
        raise _redis_told(settings, error) from error
    finally:
        state.close()


def stored_shape(client: Any, prefix: str) -> dict[str, str | int | float]:
    """What shaped the state that is there; empty when there is none."""
    found: dict[str, str | int | float] = msgspec.json.decode(client.get(f"{prefix}:shape") or b"{}")
    return found


@contextmanager
def admin(kafka: Kafka) -> Iterator[Any]:
    """Kafka's admin client, its errors told as ours. Raises `KafkaUnreachable`."""
    try:
        client = KafkaAdminClient(**kafka.options())
        try:
            yield client
        finally:
            client.close()
    except KafkaError as error:
        raise unreachable(kafka, error) from error


def _redis_told(settings: Settings, error: Exception) -> ServiceUnreachable:
    """What Redis or its client said, and what to do about it."""
    said, causes = str(error).rstrip("."), (error, error.__cause__)
    if any(isinstance(cause, NoPermissionError) for cause in causes) or "user executing the script" in said:
        do = f"give user {settings.redis_user or 'default'!r} the rules of docs/security.md"
    elif any(isinstance(cause, redis.AuthenticationError) for cause in causes):
        do = "are FRESHET_REDIS_USER and FRESHET_REDIS_PASSWORD right?"
    elif "CERTIFICATE_VERIFY_FAILED" in said:
        do = "is FRESHET_REDIS_CA the authority that signed its certificate?"
    elif isinstance(error, MovedError):
        do = "it is a node of a Redis Cluster: set FRESHET_REDIS_CLUSTER=true"
    elif "Cluster mode is not enabled" in said:
        do = "it is no Redis Cluster: set FRESHET_REDIS_CLUSTER=false"
    else:
        do = "is it up, is the address right, does it speak TLS (rediss://) or not (redis://)?"
    return ServiceUnreachable(f"Redis at {settings.redis}: {said}: {do}")
