"""Records as a real broker stores them: in every codec, and in transactions of which some are aborted."""

import uuid

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from storage.log import JSON, PACK, Entry
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.kafka_records import PACK_HEADER
from stream.log_kafka import KafkaLog
from tests.cluster.installation import Site
from tests.services import kafka_server

ENTRIES = [Entry(0, b"value %d " % n * 50, PACK if n % 3 == 0 else JSON, key=b"key" if n % 2 else None) for n in range(500)]


@pytest.mark.parametrize("codec", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_what_the_broker_compressed_is_read(codec: str) -> None:
    kafka = Kafka(kafka_server().bootstrap, prefix=f"{uuid.uuid4().hex[:12]}-")
    admin = KafkaAdminClient(**kafka.options())
    admin.create_topics([NewTopic(kafka.topic(EVENTS), 1, 1, topic_configs={"compression.type": codec, "retention.ms": "-1"})])
    admin.close()
    with KafkaLog(kafka) as log:
        log.append(EVENTS, ENTRIES, now_ms=0)
        found = log.read(EVENTS, 0, 7)
    assert [(record.offset, record.value, record.form, record.key or None) for record in found] == [
        (n, entry.value, entry.form, entry.key) for n, entry in enumerate(ENTRIES) if n >= 7
    ]


def test_transactions_are_read_as_kafka_python_reads_them(site: Site) -> None:
    where = TopicPartition(site.kafka.topic(EVENTS), 0)
    producer = KafkaProducer(**site.kafka.producer_options() | {"transactional_id": site.name})
    producer.init_transactions()
    for n in range(6):
        producer.begin_transaction()
        for part in range(3):
            producer.send(where.topic, b"%d.%d" % (n, part), partition=0, headers=[PACK_HEADER] if part else [])
        producer.flush()
        if n % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    plain = KafkaConsumer(**site.kafka.consumer_options())
    plain.assign([where])
    plain.seek(where, 0)
    theirs = []
    while plain.position(where) < site.log.end_offset(EVENTS, 0):
        theirs += plain.poll(200).get(where, ())
    plain.close()
    ours = site.log.read(EVENTS, 0, 0)
    assert [record.value for record in ours] == [b"%d.%d" % (n, part) for n in (0, 2, 4) for part in range(3)]
    assert [(record.offset, record.append_ms, record.value) for record in ours] == [(r.offset, r.timestamp, r.value) for r in theirs]
    assert site.log.end_offset(EVENTS, 0) == 24, "six markers take an offset each"
