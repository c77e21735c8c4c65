"""The producer on a real Kafka: its tokens are true, and whatever becomes of the broker, no event is lost, doubled or passed over."""

import gc
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench.services import KafkaServer, free_port, wait_until
from freshet.commands.producing import KafkaPlace, produce_entities, produce_events, publishing
from freshet.readers.choose import open_events
from freshet.settings import Settings
from storage.log import PACK, Record
from storage.names import Names
from storage.state_memory import MemoryState
from stream.deadletters import DEAD_LETTERS
from stream.delivery import BufferFull, NotDelivered, Token
from stream.entities import ENTITIES
from stream.events import Event
from stream.ingest import EVENTS, Ingest
from stream.kafka import Kafka, KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.producer import Limits, Producer
from stream.producer_kafka import KafkaSink
from stream.shape import Shape
from stream.topics import create
from stream.wire import decode
from tests.cluster.installation import ROOT
from tests.services import kafka_server

PARTITIONS = 3
USERS = 20
WAIT_S = 60.0
FEW = Limits(linger_events=25)
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def kafka() -> Kafka:
    """Topics of its own on the shared broker."""
    return topics(kafka_server())


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker beside the shared one."""
    kafka_server()  # what is missing skips here, or fails where CI is set
    with KafkaServer(tmp_path_factory.mktemp("mortal")) as broker:
        yield broker


@pytest.fixture
def mortal(own_broker: KafkaServer) -> Iterator[KafkaServer]:
    """A broker that the test may kill."""
    yield own_broker
    gc.collect()  # kafka-python leaves the sockets of connections that were refused to the collector, which would warn in a later test


def topics(broker: KafkaServer) -> Kafka:
    made = Kafka(broker.bootstrap, prefix=f"{uuid.uuid4().hex[:8]}-")
    create(made, partitions=PARTITIONS, replicas=1)
    return made


def event(number: int) -> Event:
    return Event(user_id=f"user {number % USERS}", item_id=f"i{number}", action="view", ts_ms=1_700_000_000_000 + number)


class Told:
    """An error callback that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.errors: list[Exception] = []

    def __call__(self, what: Event | bytes, error: Exception) -> None:
        assert isinstance(what, Event)
        self.events.append(what)
        self.errors.append(error)


def records(log: KafkaLog, topic: str, partition: int) -> list[Record]:
    found: list[Record] = []
    while more := log.read(topic, partition, found[-1].offset + 1 if found else 0):
        found += more
    return found


def ingested(log: KafkaLog) -> dict[str, int]:
    """What ingest makes of the topic: effects, repetitions, refusals."""
    state, shape = MemoryState(), Shape(partitions=PARTITIONS)
    ingest = Ingest(state, log, shape, names=Names(state), replaying=True, edges_apart=True)
    ingest.claim()
    for partition in range(PARTITIONS):
        if found := records(log, EVENTS, partition):
            ingest.apply(found, now_ms=0)
    tallies = ingest.tallies.values()
    accepted, duplicates = sum(tally.accepted for tally in tallies), sum(tally.duplicates for tally in tallies)
    return {"effects": accepted - duplicates, "refused": sum(sum(tally.dead_letters.values()) for tally in tallies)}


def assert_true(log: KafkaLog, tokens: list[Token]) -> None:
    """Where each token says, there its event is; what a user did lies in the order it was sent."""
    rows: dict[tuple[int, int, int], str] = {}
    for partition in range(PARTITIONS):
        for record in records(log, EVENTS, partition):
            for index, name in enumerate(decode([record]).events.column("event_id").to_pylist()):
                rows[partition, record.offset, index] = name
    places = [(at.partition, at.offset, at.index) for at in (token.result() for token in tokens)]
    assert [rows[place] for place in places] == [token.event_id for token in tokens]
    for user in range(USERS):
        of_user = [place for place, token in zip(places, tokens, strict=True) if token.what.user_id == f"user {user}"]  # type: ignore[union-attr]
        assert of_user == sorted(of_user)


def test_every_token_is_true_and_events_share_messages(kafka: Kafka) -> None:
    with Producer(KafkaSink(kafka, incarnation=3), limits=FEW) as producer:
        tokens = [producer.send(event(n)) for n in range(700)]
    first = tokens[0].result()
    assert (first.topic, first.incarnation) == (EVENTS, 3)
    with KafkaLog(kafka) as log:
        assert_true(log, tokens)
        found = [record for partition in range(PARTITIONS) for record in records(log, EVENTS, partition)]
        assert ingested(log) == {"effects": 700, "refused": 0}
    assert len(found) < 100 and {record.form for record in found} >= {PACK}


def test_an_event_alone_is_there_after_its_linger(kafka: Kafka) -> None:
    with Producer(KafkaSink(kafka)) as producer:
        assert producer.send(event(0)).result(WAIT_S).index == 0


def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(mortal: KafkaServer) -> None:
    kafka, told = topics(mortal), Told()
    with Producer(KafkaSink(kafka), limits=FEW, on_error=told) as producer:
        tokens = [producer.send(event(n)) for n in range(1000)]
        wait_until(lambda: tokens[200].done, seconds=WAIT_S)
        mortal.kill()
        tokens += [producer.send(event(n)) for n in range(1000, 2000)]
        mortal.start()
        tokens += [producer.send(event(n)) for n in range(2000, 3000)]
        producer.flush(WAIT_S)
    assert not told.events
    with KafkaLog(kafka) as log:
        assert_true(log, tokens)
        assert ingested(log) == {"effects": 3000, "refused": 0}


def test_what_is_not_acknowledged_in_time_is_told_once_and_may_be_sent_again(mortal: KafkaServer) -> None:
    kafka, told = topics(mortal), Told()
    with Producer(KafkaSink(kafka, delivery_s=2.0), limits=FEW, on_error=told) as producer:
        early = [producer.send(event(n)) for n in range(40)]
        producer.flush(WAIT_S)
        mortal.kill()
        lost = [producer.send(event(n)) for n in range(40, 80)]
        producer.flush(WAIT_S)
        assert Counter(what.event_id for what in told.events) == Counter(token.event_id for token in lost)
        assert all(isinstance(error, KafkaUnreachable) and mortal.bootstrap in str(error) for error in told.errors)
        with pytest.raises(NotDelivered):
            lost[0].result(0.0)
        mortal.start()
        again = [producer.send(what) for what in told.events]
        producer.flush(WAIT_S)
        late = [producer.send(event(n)) for n in range(80, 100)]
        producer.flush(WAIT_S)
    assert len(told.events) == 40
    with KafkaLog(kafka) as log:
        assert_true(log, early + again + late)
        assert ingested(log) == {"effects": 100, "refused": 0}


def test_a_producer_goes_on_after_a_second_attempt_that_was_in_vain(mortal: KafkaServer) -> None:
    """What was on its way when the broker went is tried again, and expires: then the client needs a new id to go on with."""
    kafka, told = topics(mortal), Told()
    with Producer(KafkaSink(kafka, delivery_s=2.0), limits=FEW, on_error=told) as producer:
        producer.send(event(0))
        producer.flush(WAIT_S)
        mortal.pause()
        lost = [producer.send(event(n)) for n in range(1, 26)]
        with pytest.raises(TimeoutError):
            producer.flush(0.5)
        mortal.kill()
        with pytest.raises(TimeoutError):
            producer.flush(1.0)
        lost += [producer.send(event(n)) for n in range(26, 51)]  # these expire while there is no id
        producer.flush(WAIT_S)
        assert Counter(what.event_id for what in told.events) == Counter(token.event_id for token in lost)
        mortal.start()
        again = [producer.send(what) for what in told.events]
        producer.flush(WAIT_S)
    assert len(told.events) == 50
    with KafkaLog(kafka) as log:
        assert_true(log, again)
        assert ingested(log) == {"effects": 51, "refused": 0}


def test_a_full_buffer_says_so_and_goes_on_when_the_broker_does(mortal: KafkaServer) -> None:
    kafka, told = topics(mortal), Told()
    with Producer(KafkaSink(kafka), limits=Limits(waiting_max=50, block_s=0.3), on_error=told) as producer:
        tokens = [producer.send(event(0))]
        producer.flush(WAIT_S)
        mortal.pause()
        try:
            with pytest.raises(BufferFull, match="50 events wait"):
                tokens.extend(producer.send(event(number)) for number in range(1, 200))
        finally:
            mortal.resume()
        producer.flush(WAIT_S)
    assert len(tokens) == 51 and not told.events
    with KafkaLog(kafka) as log:
        assert_true(log, tokens)
        assert ingested(log) == {"effects": 51, "refused": 0}


def test_a_producer_that_is_closed_while_the_broker_is_away_tells_of_everything(mortal: KafkaServer) -> None:
    kafka, told = topics(mortal), Told()
    producer = Producer(KafkaSink(kafka), limits=FEW, on_error=told)
    mortal.pause()
    try:
        tokens = [producer.send(event(n)) for n in range(60)]
        producer.close(0.3)
    finally:
        mortal.resume()
    assert Counter(what.event_id for what in told.events) == Counter(token.event_id for token in tokens)
    assert all(token.done for token in tokens)


def test_a_topic_that_is_not_there_is_named_with_what_makes_it() -> None:
    with pytest.raises(KafkaUnreachable, match=r"no topic 'nobodys-events'.*freshet topics create"):
        KafkaSink(Kafka(kafka_server().bootstrap, prefix="nobodys-"))


def test_a_broker_that_is_not_there_is_named() -> None:
    """In a process of its own: kafka-python leaves the sockets of a client that could not be made to the collector."""
    nobody = f"127.0.0.1:{free_port()}"
    program = f"from stream.kafka import Kafka; from stream.producer_kafka import KafkaSink; KafkaSink(Kafka({nobody!r}, bootstrap_ms=300))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and f"KafkaUnreachable: Kafka at {nobody}" in done.stderr


def test_files_are_published_with_what_is_known_of_their_items(kafka: Kafka, tmp_path: Path) -> None:
    events, entities = tmp_path / "u.data", tmp_path / "entities.jsonl"
    events.write_text("".join(f"u{n % 50}\ti{n % 70}\t5\t{881250949 + n}\n" for n in range(300)) + "this is no line\n")
    entities.write_text("".join(f'{{"kind":"item","id":"i{n}","title":"title {n}"}}\n' for n in range(70)))
    with publishing(Settings(kafka=kafka.bootstrap, kafka_prefix=kafka.prefix), None) as place:
        assert isinstance(place, KafkaPlace)
        assert produce_entities(place, entities, lambda _: None) == 70
        assert produce_entities(place, entities, lambda _: None) == 70
        assert produce_events(place, open_events(events), lambda _: None) == (300, 1)
        place.settle()
    with KafkaLog(kafka) as log:
        assert ingested(log) == {"effects": 300, "refused": 1}
        found = [record for partition in range(PARTITIONS) for record in records(log, ENTITIES, partition)]
        assert records(log, DEAD_LETTERS, 0) == [], "ingest tells of them, not the producer"
    assert Counter(record.key for record in found) == Counter({f"item:i{n}".encode(): 2 for n in range(70)})
    assert len({(record.key, record.partition) for record in found}) == 70, "a key stays in its partition: the topic is compacted"
    assert all(f"item:{msgspec.json.decode(record.value)['id']}".encode() == record.key for record in found)


def test_the_example_runs_on_a_real_broker(kafka: Kafka) -> None:
    where = {**os.environ, "PYTHONPATH": str(ROOT), "FRESHET_KAFKA": kafka.bootstrap, "FRESHET_KAFKA_PREFIX": kafka.prefix}
    ran = subprocess.run([sys.executable, "examples/produce_to_kafka.py"], cwd=ROOT, env=where, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("events, partition") == 15
