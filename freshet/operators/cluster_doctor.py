"""`freshet doctor` over a cluster: every service reached, and what each must be like; one finding a thing.

for finding in examine_cluster(settings): print(finding.what, finding.fine, finding.found)
"""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from pydantic import ValidationError

from freshet.clock import now_ms
from freshet.cluster import Services, ServiceUnreachable, admin, archive_of, kafka_of, redis_of, services, store_of
from freshet.operators.cluster_lag import APPLIED, cluster_status, entity_readers, members
from freshet.operators.doctor import Finding, free_space, machine, shares
from freshet.settings import Settings
from storage.archive import ArchiveDamaged
from storage.state import ShapeChanged
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.topics import TOPICS, check

LIBRARIES: Final = ("kafka-python", "crc32c", "redis", "hiredis", "faust-streaming", "numpy", "numba", "pyarrow", "msgspec")
REDIS_MIN: Final = 6
SKEW_MS_MAX: Final = 5_000
MISROUTED_MAX: Final = 0.01
MEMORY_SHARE_MAX: Final = 0.8
NEEDED: Final = frozenset({"READ", "WRITE", "DESCRIBE"})
TIMEOUT_S: Final = 5.0
_PROBE: Final = "doctor-probe"


def examine_cluster(settings: Settings) -> Iterator[Finding]:
    """Every check, services first. Writes a key and a file of its own and removes them; appends nothing."""
    yield from machine(LIBRARIES)
    kafka = yield from _kafka(settings)
    client = yield from _redis(settings)
    if kafka and client is not None:
        yield from _state(settings)
    if client is not None:
        client.close()
    if settings.qdrant:
        yield _qdrant(settings)
    yield from _store(settings)


def _kafka(settings: Settings) -> Generator[Finding, None, bool]:
    """Brokers, topics, what we may do with them, and their clock."""
    try:
        kafka = kafka_of(settings)
        with admin(kafka) as client:
            cluster = client.describe_cluster()
            version = ".".join(map(str, client.get_broker_version_data(cluster["brokers"][0]["broker_id"]).broker_version))
            described = client.describe_topics([kafka.topic(topic.name) for topic in TOPICS])
    except (KafkaUnreachable, ServiceUnreachable, ValueError, OSError) as error:
        yield Finding("kafka", False, str(error), "start the brokers, or set FRESHET_KAFKA and what belongs to it right")
        return False
    yield Finding("kafka", True, f"{len(cluster['brokers'])} brokers at {kafka.bootstrap}, protocol of {version} or later")
    yield from _topics(kafka, settings, described)
    return True


def _topics(kafka: Kafka, settings: Settings, described: list[dict[str, Any]]) -> Iterator[Finding]:
    there = {topic["name"]: topic for topic in described if not topic["error_code"]}
    for found in check(kafka, partitions=settings.partitions):
        yield Finding(f"topic {found.topic}", found.fine, found.found, found.do)
    for name, topic in sorted(there.items()):
        allowed = set(topic["authorized_operations"] or NEEDED)  # an old broker does not tell
        lacking = sorted(NEEDED - allowed)
        yield Finding(
            f"rights on {name}", not lacking, "read, write" if not lacking else f"no {', '.join(lacking)}",
            f"grant the user {', '.join(lacking)} on the topic",
        )  # fmt: skip
    if kafka.topic(EVENTS) in there:
        yield _append_time(kafka)


def _append_time(kafka: Kafka) -> Finding:
    """Only what is ahead of us can be told from records: one that is old may just be old."""
    with KafkaLog(kafka) as log:
        newest = 0
        for partition in range(log.topic(EVENTS).partitions):
            end = log.end_offset(EVENTS, partition)
            for record in log.read(EVENTS, partition, max(end - 1, log.first_offset(EVENTS, partition))) if end else ():
                newest = max(newest, record.append_ms)
    ahead = newest - now_ms()
    found = f"the newest event was appended {-ahead / 1000:.1f} s ago" if newest else "no event yet"
    return Finding("kafka's clock", ahead <= SKEW_MS_MAX, found, "set the clocks of the brokers and of this machine (NTP)")


def _redis(settings: Settings) -> Generator[Finding, None, Any]:
    """Server by server: version, clock, memory, eviction, and whether what is written stays."""
    try:
        client = redis_of(settings)
    except (ServiceUnreachable, ValueError, OSError) as error:
        yield Finding("redis", False, str(error), "start Redis, or set FRESHET_REDIS and what belongs to it right")
        return None
    try:
        for name, ask in _servers(client, settings):
            try:
                yield from _server(name, ask)
            except redis.exceptions.NoPermissionError as error:
                yield Finding(name, False, str(error), "allow the user +info and +time, which change nothing")
        client.set(f"{settings.redis_prefix}:{_PROBE}", b"1", ex=60)
        client.delete(f"{settings.redis_prefix}:{_PROBE}")
        yield Finding("rights in redis", True, f"keys {settings.redis_prefix}:… can be written")
    except redis.RedisError as error:
        yield Finding("redis", False, str(error), f"allow the user all commands of freshet on keys {settings.redis_prefix}:*")
        client.close()
        return None
    return client


def _servers(client: Any, settings: Settings) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each server's name, and how to ask it."""
    if not settings.redis_cluster:
        yield "redis", client.execute_command
        return
    for node in client.get_primaries():
        yield f"redis {node.name}", partial(client.execute_command, target_nodes=node)


def _server(name: str, ask: Callable[..., Any]) -> Iterator[Finding]:
    info = ask("INFO")
    version = str(info["redis_version"])
    yield Finding(name, int(version.split(".")[0]) >= REDIS_MIN, f"version {version}", f"install Redis {REDIS_MIN} or newer")
    seconds, microseconds = ask("TIME")
    skew = int(seconds) * 1000 + int(microseconds) // 1000 - now_ms()
    yield Finding(f"{name}: clock", abs(skew) <= SKEW_MS_MAX, f"{skew:+d} ms from ours", "set the clocks of both machines (NTP)")
    policy = info["maxmemory_policy"]
    yield Finding(
        f"{name}: eviction", policy == "noeviction", f"maxmemory-policy {policy}",
        "set noeviction: evicted state is lost, and nobody notices",
    )  # fmt: skip
    aof = int(info["aof_enabled"]) and info["aof_last_write_status"] == "ok"
    found = f"append-only file {'on' if info['aof_enabled'] else 'off'}, last write {info['aof_last_write_status']}"
    yield Finding(
        f"{name}: durability", bool(aof), found, "set appendonly yes, appendfsync everysec, on a disk with room: else a restart forgets"
    )
    used, most = int(info["used_memory"]), int(info["maxmemory"]) or int(info["total_system_memory"])
    yield Finding(
        f"{name}: memory", used <= MEMORY_SHARE_MAX * most, f"{used / 1e6:,.0f} of {most / 1e6:,.0f} MB",
        "give it more, or spread the state over a Redis Cluster: at the bound commits fail",
    )  # fmt: skip


def _state(settings: Settings) -> Iterator[Finding]:
    """The state against the setting and the log, and who works on it."""
    try:
        with services(settings, looking=True) as site:
            yield Finding("state", True, f"{settings.partitions} partitions, as set")
            yield from _progress(site)
    except ShapeChanged as error:
        yield Finding("state", False, str(error), "see the message")
    except (KafkaUnreachable, ServiceUnreachable) as error:
        yield Finding("state", False, str(error), "freshet topics create")


def _progress(site: Services) -> Iterator[Finding]:
    status = cluster_status(site)
    gaps = [f"{row['topic']} {row['partition']}: {row['gap']}" for row in status["partitions"] if row["gap"]]
    told = "; ".join(gaps) or f"{', '.join(APPLIED)} go on where the state ends"
    yield Finding("log", not gaps, told, "rebuild (freshet rebuild), or accept the loss on record (freshet gap accept)")
    with admin(site.kafka) as client:
        readers = {group: len(members(client, site.kafka, group)) for group in (site.group, entity_readers(site.kafka))}
    found = ", ".join(f"{count} in group {group}" for group, count in readers.items())
    yield Finding("workers", all(readers.values()), found, "start them (freshet worker): what is appended waits")
    tallies = status["tallies"]
    accepted, dead = tallies["accepted"], tallies["dead_letters"]
    yield shares(accepted, dead, status["lag_records"])
    misrouted = dead.get("misrouted", 0)
    share = misrouted / max(1, accepted + misrouted)
    yield Finding(
        "misrouted", share <= MISROUTED_MAX, f"{share:.2%} of what came",
        "set partitioner=murmur2_random in the producers (key = user_id), then: freshet dead-letters redrive --reason misrouted",
    )  # fmt: skip


def _qdrant(settings: Settings) -> Finding:
    do = "start Qdrant, or set FRESHET_QDRANT and FRESHET_QDRANT_KEY right"
    key = settings.qdrant_key.get_secret_value()
    try:
        with httpx.Client(base_url=settings.qdrant, timeout=TIMEOUT_S, headers={"api-key": key} if key else {}) as client:
            version, collections = client.get("/"), client.get("/collections")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding("qdrant", False, f"{settings.qdrant} does not answer ({error})", do)
    if collections.status_code != httpx.codes.OK:
        return Finding("qdrant", False, f"{settings.qdrant} answered {collections.status_code}", do)
    return Finding(
        "qdrant",
        True,
        f"version {version.json().get('version', 'unknown')}, {len(collections.json()['result']['collections'])} collections",
    )


def _store(settings: Settings) -> Iterator[Finding]:
    """Where archive and weights lie: readable, writable, and room where it is a disk."""
    where = settings.store.partition("?")[0].rpartition("@")[2] or str(settings.data)
    try:
        place = store_of(settings, "archive")
        place.prepare()
        place.write(_PROBE, b"1")
        place.delete(_PROBE)
        parts = archive_of(settings).parts()
    except (OSError, ValueError, ArchiveDamaged, ValidationError) as error:
        yield Finding("store", False, str(error), "choose a place every process can write (FRESHET_STORE)")
        return
    yield Finding("store", True, f"{where}: writable, {len(parts):,} archive files")
    if "://" not in (settings.store or str(settings.data)):
        yield free_space(Path(settings.store or settings.data))
