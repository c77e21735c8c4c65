"""Publish events to Kafka, and know of each where it landed, or that it did not.

Needs brokers with freshet's topics; without `FRESHET_KAFKA` it says so and does nothing.

    FRESHET_KAFKA=localhost:9092 .venv/bin/freshet topics create
    FRESHET_KAFKA=localhost:9092 .venv/bin/python examples/produce_to_kafka.py
"""

from freshet.clock import now_ms
from freshet.cluster import kafka_of
from freshet.settings import Settings
from stream.events import Event
from stream.producer import Producer
from stream.producer_kafka import KafkaSink

TASTES = {"ann": "kiln bowl mug", "ben": "kiln bowl vase", "cem": "kiln bowl mug teapot", "dee": "tent boots", "eve": "boots tent stove"}


def main() -> None:
    """Everything in order; what is asserted is what a first reader should see."""
    settings = Settings()
    if not settings.kafka:
        print("no brokers are set: FRESHET_KAFKA=host:port, then this publishes a dozen events")
        return
    kept: list[tuple[Event | bytes, Exception]] = []
    with Producer(KafkaSink(kafka_of(settings)), on_error=lambda what, error: kept.append((what, error))) as producer:
        tokens = [
            producer.send(Event(user_id=user, item_id=item, action="click", ts_ms=now_ms()))
            for user, items in TASTES.items()
            for item in items.split()
        ]
        producer.flush()
        landed = [token.result() for token in tokens]
    for token, at in zip(tokens, landed, strict=True):
        print(f"{token.event_id}: {at.topic}, partition {at.partition}, offset {at.offset}, number {at.index} of its pack")
    assert not kept, "what is not acknowledged comes here, with its id: send it again"
    assert len(set(landed)) == len(tokens), "each has a place of its own"


if __name__ == "__main__":
    main()
