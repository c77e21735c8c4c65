"""The sink of a producer that is Kafka: acknowledged by all in-sync replicas, in order, retried without doubling while it lives.

    with Producer(KafkaSink(kafka), on_error=keep) as producer: token = producer.send(event)

A process that publishes needs this and the brokers' address: no Redis, no data folder.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import RecordMetadata

from storage.log import PACK, Entry, Position
from stream.delivery import Done
from stream.expiring import keep_expiring
from stream.ingest import EVENTS
from stream.kafka import REQUEST_MS, Kafka, KafkaUnreachable, unreachable
from stream.kafka_records import PACK_HEADER
from stream.log_kafka import BATCH_BYTES

LINGER_S: Final = 0.02
DELIVERY_S: Final = 120.0
"""As Java clients: an event that is not acknowledged by then has failed."""
METADATA_MS: Final = 5000
CLOSE_S: Final = 2.0


class KafkaSink:
    """One topic, `events` unless told otherwise. Close it through its producer."""

    def __init__(self, kafka: Kafka, *, topic: str = EVENTS, incarnation: int | None = None, delivery_s: float = DELIVERY_S) -> None:
        """`incarnation` is what the state calls this topic, where the caller knows. Raises `KafkaUnreachable`."""
        self.topic, self.incarnation, self.linger_s = topic, incarnation, LINGER_S
        self._kafka, self._name = kafka, kafka.topic(topic)
        delivery_ms = int(delivery_s * 1000)
        bounds = {"delivery_timeout_ms": delivery_ms, "request_timeout_ms": min(REQUEST_MS, delivery_ms), "max_block_ms": METADATA_MS}
        try:
            self._client = KafkaProducer(**kafka.producer_options() | bounds | {"batch_size": BATCH_BYTES})
        except KafkaError as error:
            raise unreachable(kafka, error) from error
        keep_expiring(self._client)
        try:
            self.partitions = len(self._client.partitions_for(self._name) or ())
        except KafkaError as error:
            self._client.close(CLOSE_S)
            wrong = f"there is no topic {self._name!r} at {kafka.bootstrap}, or it does not answer ({type(error).__name__})"
            raise KafkaUnreachable(f"{wrong}: make it (freshet topics create)") from error

    def put(self, entries: Sequence[Entry], done: Done) -> None:
        """Send all; `done` is called in the client's thread, or here for a record that it refuses."""
        for which, entry in enumerate(entries):
            try:
                headers = [PACK_HEADER] if entry.form == PACK else []
                sent = self._client.send(self._name, entry.value, key=entry.key, partition=entry.partition, headers=headers)
            except (KafkaError, ValueError, AssertionError) as error:
                done(which, self._told(error))
                continue
            sent.add_callback(partial(self._landed, done, which))
            sent.add_errback(partial(self._failed, done, which))

    def close(self) -> None:
        """Give up what is not acknowledged: its `done` has been called when this returns."""
        try:
            self._client.close(CLOSE_S)
        except KafkaTimeoutError:  # its flush gave up, and its thread would go on sending what our caller is told has failed
            self._client._sender.force_close()
            self._client._sender.join()
            self._client.close(CLOSE_S)

    def _landed(self, done: Done, which: int, at: RecordMetadata) -> None:
        done(which, Position(at.partition, at.offset, at.offset))

    def _failed(self, done: Done, which: int, error: Exception) -> None:
        done(which, self._told(error))

    def _told(self, error: Exception) -> KafkaUnreachable:
        """Kafka's error as ours, which names the address and never the password; asks nobody, for it is told in the client's thread."""
        return KafkaUnreachable(f"Kafka at {self._kafka.bootstrap} ({self._kafka.protocol}): {type(error).__name__} {error}")
