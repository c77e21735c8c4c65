"""Clients in other languages, with the settings of docs/clients.md as they stand there: partitions are ours, codecs are read."""

import ast
import base64
import importlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from typing import NoReturn

import msgspec
import pytest

from bench.peers.peer import ENVIRONMENTS, QUIX, PeerUnavailable, environment, pinned
from bench.services import JARS
from stream.events import Event
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.routing import partition_of
from stream.topics import create
from tests.cluster.installation import ROOT
from tests.cluster.test_producer import ingested, records
from tests.services import kafka_server

PARTITIONS = 3
IDS = [
    *(f"u{n}" for n in range(300)),
    *(f"user {n}" * (n % 7 + 1) for n in range(60)),
    "ü",
    "δοκιμή",
    "用户",
    "🙂" * 5,
    " ",
    "\0",
    "a" * 256,
]
LIBRDKAFKA = """
import base64, sys
from confluent_kafka import Producer
topic, *settings = sys.argv[1:]
producer = Producer(dict(setting.split("=", 1) for setting in settings))
landed = {}
for number, line in enumerate(sys.stdin):
    key, value = map(base64.b64decode, line.split())
    def told(error, message, number=number):
        assert error is None, error
        landed[number] = message.partition()
    producer.produce(topic, value, key, on_delivery=told)
    producer.poll(0)
assert producer.flush(60) == 0
print(*(landed[number] for number in sorted(landed)), sep="\\n")
"""


def documented(heading: str) -> list[str]:
    """The settings under a heading of the page, name=value."""
    page = (ROOT / "docs" / "clients.md").read_text()
    found = re.search(rf"^## {heading}\n.*?^```properties\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/clients.md has no settings under {heading}"
    return found[1].split()


@pytest.fixture
def kafka() -> Kafka:
    """Topics of its own on the shared broker."""
    made = Kafka(kafka_server().bootstrap, prefix=f"{uuid.uuid4().hex[:8]}-")
    create(made, partitions=PARTITIONS, replicas=1)
    return made


def absent(what: str, hint: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not here: {hint}")
    pytest.skip(f"{what} is not here: {hint}")


def java(kafka: Kafka, *settings: str) -> list[int]:
    if shutil.which("javac") is None:
        absent("a Java compiler", "apt-get install default-jdk-headless")
    command = ["java", "-cp", f"{JARS}/*", str(ROOT / "tests" / "cluster" / "Produce.java"), kafka.topic(EVENTS)]
    return sent([*command, f"bootstrap.servers={kafka.bootstrap}", *settings])


def librdkafka(kafka: Kafka, *settings: str) -> list[int]:
    pins = QUIX / "requirements.txt"
    try:
        python = environment(ENVIRONMENTS / f"quix-{pinned(pins.read_text(), 'quixstreams')}", pins)
    except PeerUnavailable as error:
        absent("librdkafka", str(error))
    return sent([str(python), "-c", LIBRDKAFKA, kafka.topic(EVENTS), f"bootstrap.servers={kafka.bootstrap}", *settings])


def sent(command: Sequence[str]) -> list[int]:
    """One event of each user; the partitions that the client chose."""
    lines = []
    for user in IDS:
        body = msgspec.json.encode(Event(user_id=user, item_id="i", action="view", ts_ms=1_700_000_000_000))
        lines.append(f"{base64.b64encode(user.encode()).decode()} {base64.b64encode(body).decode()}\n")
    done = subprocess.run(command, input="".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(line) for line in done.stdout.split()]


def assert_ours(kafka: Kafka, chosen: list[int]) -> None:
    """Each user is where we would put them, ingest refuses nothing, and the codec is one that is read."""
    assert chosen == [partition_of(user, PARTITIONS) for user in IDS]
    with KafkaLog(kafka) as log:
        assert ingested(log) == {"effects": len(IDS), "refused": 0}
        keys = [(record.key, partition) for partition in range(PARTITIONS) for record in records(log, EVENTS, partition)]
    assert sorted(keys) == sorted((user.encode(), partition_of(user, PARTITIONS)) for user in IDS)


@pytest.mark.parametrize("codec", [None, "none", "gzip", "snappy", "zstd"])
def test_javas_own_partitioner_sends_the_same_users_to_the_same_partitions(codec: str | None, kafka: Kafka) -> None:
    settings = documented("Java")
    assert not [setting for setting in settings if setting.startswith("partitioner")]
    assert_ours(kafka, java(kafka, *settings, *([f"compression.type={codec}"] if codec else [])))


def test_librdkafka_does_as_documented_and_not_as_it_comes(kafka: Kafka) -> None:
    settings = documented("librdkafka")
    assert_ours(kafka, librdkafka(kafka, *settings))
    other = Kafka(kafka.bootstrap, prefix=f"{uuid.uuid4().hex[:8]}-")
    create(other, partitions=PARTITIONS, replicas=1)
    chosen = librdkafka(other, *(setting for setting in settings if not setting.startswith("partitioner")))
    strays = sum(here != partition_of(user, PARTITIONS) for here, user in zip(chosen, IDS, strict=True))
    assert strays > len(IDS) // 3
    with KafkaLog(other) as log:
        assert ingested(log) == {"effects": len(IDS) - strays, "refused": strays}


def test_the_python_of_the_page_names_what_is_there() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL)
    imports = [node for node in ast.parse(program).body if isinstance(node, ast.ImportFrom)]
    assert imports and all(hasattr(importlib.import_module(str(node.module)), alias.name) for node in imports for alias in node.names)
