"""The log and the topics on a real Kafka, entities written by several, and what is said when a service is not there."""

import subprocess
import sys

import msgspec
import pytest
from pydantic import SecretStr

from bench.services import free_port
from freshet.cluster import ServiceUnreachable, kafka_of, redis_of
from freshet.settings import Settings
from storage.ids import ITEM, hash_id
from storage.log import JSON, PACK, Entry, Record
from storage.state import DIRTY, NODES
from stream.entity_writer import EntityWriter
from stream.events import Entity
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable
from stream.topics import check, create
from tests.cluster.installation import ROOT, Site
from tests.services import kafka_server
from tests.stream.event_logs import APPEND_MS


def test_what_is_appended_is_read_in_order_with_its_form_and_key(wide: Site) -> None:
    entries = [Entry(1, b"one", key=b"u"), Entry(2, b"elsewhere"), Entry(1, b"pack", PACK), Entry(1, b"")]
    positions = wide.log.append(EVENTS, entries, now_ms=APPEND_MS)
    assert [(at.partition, at.offset) for at in positions] == [(1, 0), (2, 0), (1, 1), (1, 2)]
    found = wide.log.read(EVENTS, 1, 0)
    assert [(record.value, record.form, record.key) for record in found] == [(b"one", JSON, b"u"), (b"pack", PACK, b""), (b"", JSON, b"")]
    assert [record.offset for record in wide.log.read(EVENTS, 1, 1, records_max=1)] == [1]
    assert wide.log.read(EVENTS, 1, 3) == [] and wide.log.read(EVENTS, 0, 0) == []
    assert (wide.log.first_offset(EVENTS, 1), wide.log.end_offset(EVENTS, 1)) == (0, 3)
    assert wide.log.topic(EVENTS).partitions == 3 and wide.log.topic(EVENTS).id == wide.log.topic(EVENTS).id


def test_a_value_above_the_bound_and_a_topic_that_is_not_there_are_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="above the bound"):
        site.log.append(EVENTS, [Entry(0, b"x" * ((1 << 20) + 1))], now_ms=0)
    with pytest.raises(KafkaUnreachable, match="topics create"):
        site.log.topic("nothing")


def test_topics_are_made_once_and_what_is_wrong_is_said() -> None:
    kafka = Kafka(kafka_server().bootstrap, prefix="made-")
    assert [finding.fine for finding in check(kafka, partitions=2)] == [False] * 4
    assert create(kafka, partitions=2, replicas=1) == ["events", "edges", "entities", "dead-letters"]
    assert create(kafka, partitions=2, replicas=1) == []
    assert all(finding.fine for finding in check(kafka, partitions=2))
    wrong = [finding for finding in check(kafka, partitions=3) if not finding.fine]
    assert {finding.topic for finding in wrong} == {"made-events", "made-edges", "made-entities"}
    assert all("rebuild" in finding.do for finding in wrong)


def record(entity: Entity | None, *, offset: int, key: bytes = b"", append_ms: int = 50) -> Record:
    return Record(offset, 0, offset, append_ms, JSON, msgspec.json.encode(entity) if entity else b"", key)


def test_of_an_entity_the_newest_stays_in_whatever_order_it_comes(wide: Site) -> None:
    newest = record(Entity(kind="item", id="i", title="new", ts_ms=9), offset=2)
    older = record(Entity(kind="item", id="i", title="old", ts_ms=8), offset=3)
    one, other = (EntityWriter(wide.state, wide.log, wide.shape) for _ in range(2))
    assert [one.apply(newest, now_ms=1), other.apply(older, now_ms=1), other.apply(newest, now_ms=1)] == [True, False, False]
    node = hash_id("i", ITEM)
    where = node % wide.shape.partitions
    assert b"new" in dict(wide.state.scan(NODES, where))[node]
    assert dict(wide.state.scan(DIRTY, where))[node] == b"e" + (2).to_bytes(8, "little")
    assert one.apply(record(None, offset=4, key=b"item:i"), now_ms=1)
    assert b'"deleted":true' in dict(wide.state.scan(NODES, where))[node]


@pytest.mark.parametrize(("body", "key"), [(b"{", b""), (b"", b"i"), (b"", b"planet:i"), (b'{"kind":"item","id":""}', b"")])
def test_an_entity_that_cannot_be_read_is_a_dead_letter(body: bytes, key: bytes, site: Site) -> None:
    writer = EntityWriter(site.state, site.log, site.shape)
    assert not writer.apply(Record(7, 0, 7, 50, JSON, body, key), now_ms=APPEND_MS)
    (letter,) = site.letters()
    assert letter.origin == ("entities", 0, 0, 7, 0) and letter.raw == body and letter.reason


def test_a_service_that_is_away_is_named_and_its_password_is_not() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    settings = Settings(
        kafka=nobody, redis=f"redis://{nobody}", redis_password=SecretStr("hush"), kafka_user="u", kafka_password=SecretStr("hush")
    )
    with pytest.raises(ServiceUnreachable, match=nobody) as refused:
        redis_of(settings)
    assert "hush" not in str(refused.value) + repr(settings) + repr(kafka_of(settings))
    with pytest.raises(ServiceUnreachable, match="FRESHET_KAFKA"):
        kafka_of(Settings())
    with pytest.raises(ServiceUnreachable, match="FRESHET_REDIS_PASSWORD") as refused:
        redis_of(Settings(redis=f"redis://:hush@{nobody}"))
    assert "hush" not in str(refused.value)


def test_a_broker_that_is_away_is_named() -> None:
    """In a process of its own: kafka-python leaves the sockets of a client that could not be made to the collector."""
    nobody = f"127.0.0.1:{free_port()}"
    program = f"from stream.kafka import Kafka; from stream.log_kafka import KafkaLog; KafkaLog(Kafka({nobody!r}, bootstrap_ms=300))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and f"KafkaUnreachable: Kafka at {nobody} (PLAINTEXT) did not answer in time" in done.stderr
