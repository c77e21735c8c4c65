"""The operators' commands as a person runs them, on an installation of its own that the settings name."""

import json
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner, Result

from bench.services import free_port, wait_until
from freshet.commands.cli import app
from freshet.operators.cluster_doctor import examine_cluster
from freshet.operators.doctor import Finding
from freshet.settings import Settings
from storage.log import Entry
from storage.state_redis import RedisState
from stream.edges import EDGES
from stream.events import Event
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.routing import partition_of
from stream.shape import Shape
from stream.topics import create
from stream.wire import encode_event
from stream.worker import Worker
from tests.services import kafka_server, redis_server


class Installed:
    """An installation of its own as the command line meets it: topics made, nothing on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
        self.name = uuid.uuid4().hex[:12]
        self.kafka = Kafka(kafka_server().bootstrap, prefix=f"{self.name}-")
        create(self.kafka, partitions=2, replicas=1)
        self.client = redis.Redis.from_url(redis_server().url)
        given = {"KAFKA": self.kafka.bootstrap, "KAFKA_PREFIX": self.kafka.prefix, "KAFKA_GROUP": self.name, "REDIS": redis_server().url}
        for name, value in (given | {"REDIS_PREFIX": self.name, "PARTITIONS": "2", "STORE": str(store)}).items():
            monkeypatch.setenv(f"FRESHET_{name}", value)

    def run(self, *arguments: str) -> Result:
        """`freshet ...`"""
        return CliRunner().invoke(app, arguments)

    def work(self, events: list[Event], now_ms: int) -> None:
        """Append and apply, as one worker does."""
        shape = Shape(partitions=2)
        state = RedisState(self.client, partitions=2, prefix=self.name)
        state.shape(shape.record())
        with KafkaLog(self.kafka) as log:
            log.append(EVENTS, [Entry(partition_of(event.user_id, 2), encode_event(event)) for event in events], now_ms=now_ms)
            worker = Worker(self.kafka, state, log, shape, group=self.name, session_ms=3000)
            ends = {(topic, n): partial(log.end_offset, topic, n) for topic in (EVENTS, EDGES) for n in range(2)}

            def applied() -> bool:
                worker.round(now_ms=int(time.time() * 1000))
                return all(state.watermarks(topic).get(n, 0) == end() for (topic, n), end in ends.items())

            wait_until(applied, seconds=60, every=0)
            worker.close()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installed:
    return Installed(monkeypatch, tmp_path / "store")


def test_every_command_works_on_an_installation_where_nothing_has_happened_yet(installed: Installed) -> None:
    status = json.loads(installed.run("lag", "--json").output)
    assert status["lag_records"] == 0 and len(status["partitions"]) == 6 and status["group"]["members"] == []
    assert "nobody" in installed.run("lag").output
    for command in (["verify"], ["replay"], ["gap", "accept"], ["dead-letters", "list"]):
        assert installed.run(*command).exit_code == 0, command
    assert installed.client.get(f"{installed.name}:shape") is None, "to look stores nothing"
    assert installed.run("rebuild").output.endswith("rebuilt from 0 events\n")


def test_the_commands_tell_of_what_was_applied(installed: Installed) -> None:
    events = [Event(user_id=f"u{n % 5}", action="view", item_id=f"i{n % 9}", ts_ms=1_700_000_000_000 + n) for n in range(80)]
    strange = [Event(user_id="u", action="teleport", item_id="i", ts_ms=1)]
    installed.work(events + strange, 0)
    status = json.loads(installed.run("lag", "--json").output)
    assert status["tallies"]["accepted"] == 80 and status["lag_records"] == status["edges_lag_records"] == 0
    assert installed.run("verify").output.endswith("equal\n")
    said = installed.run("dead-letters", "redrive", "--reason", "unknown action", "--edit", "action=click")
    assert "1 redriven" in said.output
    assert json.loads(installed.run("lag", "--json").output)["lag_records"] == 1
    assert installed.run("rebuild").output.endswith("rebuilt from 82 events\n")
    assert json.loads(installed.run("lag", "--json").output)["tallies"]["accepted"] == 81
    assert installed.run("verify").output.endswith("equal\n")


def findings(installed: Installed) -> dict[str, Finding]:
    found = list(examine_cluster(Settings()))
    assert all(one.do for one in found if not one.fine) and all(one.found for one in found)
    return {one.what: one for one in found}


def test_doctor_finds_a_sound_installation_fine_but_for_workers_that_are_not_there(installed: Installed) -> None:
    found = findings(installed)
    assert {name for name, one in found.items() if not one.fine} <= {"workers", "free space"}
    assert {"kafka", "redis", "redis: eviction", "redis: durability", "redis: clock", "state", "misrouted", "store"} <= set(found)
    assert found[f"rights on {installed.kafka.topic(EVENTS)}"].fine
    said = installed.run("doctor")
    assert said.exit_code == 1 and "freshet worker" in said.output


def test_doctor_says_what_is_wrong(installed: Installed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    RedisState(installed.client, partitions=4, prefix=installed.name).shape(Shape(partitions=4).record())
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FRESHET_STORE", str(tmp_path / "file"))
    monkeypatch.setenv("FRESHET_QDRANT", f"http://127.0.0.1:{free_port()}")
    found = findings(installed)
    assert {"state", "store", "qdrant"} <= {name for name, one in found.items() if not one.fine}
    assert "partitions: stored 4, asked 2" in found["state"].found


def test_doctor_goes_on_without_a_service(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_REDIS", f"redis://127.0.0.1:{free_port()}")
    found = findings(installed)
    assert found["kafka"].fine and not found["redis"].fine and "state" not in found and found["store"].fine
