"""TLS, users and permissions on real services: the way in, every wrong way, and no secret in anything that is put out.

The permissions are read from docs/security.md, so what stands there is what is tested.
"""

import ast
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr, ValidationError

from bench.secured import Authority, SecuredRedis
from bench.services import RedisCluster, free_port, wait_until
from freshet.clock import now_ms
from freshet.cluster import ServiceUnreachable, kafka_of, redis_of, services
from freshet.settings import Settings
from storage.health import Beat
from storage.health_redis import RedisHealth
from storage.log import Entry
from storage.models import Version
from storage.models_redis import RedisRegistry
from storage.places import LocalPlace
from storage.state import COUNTS, Advance, Write
from storage.state_redis import RedisState
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.worker import Worker
from tests.cluster.installation import ROOT
from tests.cluster.secured_installation import (
    PARTITIONS,
    REDIS_USER,
    SECRET,
    WRONG,
    Secured,
    added,
    freshet,
    ids,
    redis_rules,
    secured,
)

OPEN = """
import json, os, sys, time; from freshet.cluster import services; from freshet.settings import Settings
children = {}
for way, environment in json.loads(sys.argv[1]).items():
    children[way] = os.fork()
    if not children[way]:
        output = os.open(os.path.join(sys.argv[2], way), os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ.update(environment)
        break
else:
    print(json.dumps({way: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for way, child in children.items()}))
    sys.exit()
began = time.monotonic()
try:
    with services(Settings()): pass
finally:
    print(f"after {time.monotonic() - began:.1f} s", flush=True)
"""
"""Opens the services in a process for each of many ways, all of which begin where everything is loaded."""
REFUSED_S = 40.0


@pytest.fixture
def site() -> Secured:
    return secured()


WRONG_WAYS: dict[str, tuple[dict[str, object], str]] = {
    "kafka password": ({"kafka_password": WRONG}, "its certificate is trusted, but .* FRESHET_KAFKA_PASSWORD"),
    "kafka authority": ({"kafka_ca": "stranger"}, "its certificate is not trusted .* FRESHET_KAFKA_CA"),
    "kafka in clear": ({"kafka_protocol": "PLAINTEXT"}, "it speaks TLS: set FRESHET_KAFKA_PROTOCOL"),
    "kafka without a user": ({"kafka_protocol": "SSL"}, "does it ask for a user"),
    "kafka without a certificate": (
        {"kafka_protocol": "SSL", "kafka": "mutual"},
        "it refuses our certificate .* FRESHET_KAFKA_CERTIFICATE",
    ),
    "kafka user not given": ({"kafka_user": ""}, "needs a user and a password .FRESHET_KAFKA_USER"),
    "kafka authority is no file": ({"kafka_ca": "nowhere.pem"}, "nowhere.pem is no file: set FRESHET_KAFKA_CA"),
    "redis password": ({"redis_password": WRONG}, "FRESHET_REDIS_USER and FRESHET_REDIS_PASSWORD right"),
    "redis authority": ({"redis_ca": "stranger"}, "certificate verify failed.*FRESHET_REDIS_CA"),
    "redis authority is no file": ({"redis_ca": "nowhere.pem"}, "nowhere.pem is no file: set FRESHET_REDIS_CA"),
    "redis in clear": ({"redis": "redis://"}, "does it speak TLS"),
    "redis prefix": ({"redis_prefix": "others"}, "no permissions .* give user 'freshet' the rules of docs/security.md"),
    "redis is no cluster": ({"redis_cluster": "true"}, "it is no Redis Cluster: set FRESHET_REDIS_CLUSTER=false"),
    "redis address with a password": ({"redis": f"rediss://:{WRONG}@127.0.0.1:1"}, "a password belongs into FRESHET_REDIS_PASSWORD"),
}


@cache
def refused() -> dict[str, tuple[int, str]]:
    """All wrong ways side by side: status, and all that was put out."""
    site = secured()
    places: dict[object, object] = {
        "stranger": site.stranger.ca, "mutual": site.kafka.mutual,
        "redis://": site.redis.url.replace("rediss", "redis"),
    }  # fmt: skip
    ways = {}
    for name, (given, _) in WRONG_WAYS.items():
        ways[name] = site.environment("worker", **{key: places.get(value, value) for key, value in given.items()})
    with tempfile.TemporaryDirectory() as folder:
        told, _ = freshet("-c", OPEN, json.dumps(ways), folder, environment={}).communicate(timeout=150)
        statuses: dict[str, int] = json.loads(told.splitlines()[-1])
        return {name: (status, (Path(folder) / name).read_text()) for name, status in statuses.items()}


@pytest.mark.parametrize("way", WRONG_WAYS)
def test_a_wrong_way_in_is_told_with_what_to_do_and_without_a_secret(way: str) -> None:
    """The whole traceback is put out here, with all that kafka-python and redis-py log at warning."""
    status, told = refused()[way]
    (seconds,) = re.findall(r"^after ([0-9.]+) s$", told, re.MULTILINE)
    assert status == 1 and float(seconds) < REFUSED_S, told
    assert re.search(WRONG_WAYS[way][1], told.splitlines()[-1]), told[-1000:]
    assert "Unreachable" in told.splitlines()[-1] and SECRET not in told


def test_at_the_command_line_it_is_one_line(site: Secured) -> None:
    ways = ({"kafka_ca": site.stranger.ca}, {"redis_password": WRONG})
    children = [freshet("worker", environment=site.environment("worker", **way)) for way in ways]
    for child, name in zip(children, ("FRESHET_KAFKA_CA", "FRESHET_REDIS_PASSWORD"), strict=True):
        told, _ = child.communicate(timeout=90)
        (line,) = told.splitlines()
        assert child.returncode == 1 and line.startswith("error: ") and name in line and SECRET not in told


def test_a_worker_applies_what_was_sent_over_tls_with_users(site: Secured) -> None:
    site.denied()
    settings = site.settings("worker")
    with services(settings) as services_:
        users = site.send(60)
        worker = Worker(services_.kafka, services_.state, services_.log, services_.shape, group=settings.kafka_group)
        try:
            wait_until(lambda: bool(worker.round(now_ms=now_ms())) and site.known(services_.state, users), seconds=60)
        finally:
            worker.close()
        assert SECRET not in repr(services_) + str(services_)
    assert site.denied() == []


def test_the_worker_process_serves_its_page_applies_and_stops_in_order(site: Secured, tmp_path: Path) -> None:
    """faust's own clients take part: they get the same trust and the same user in another form."""
    site.denied()
    state = RedisState(redis_of(site.settings("worker")), partitions=PARTITIONS)
    port = free_port()
    output = tmp_path / "output"
    with output.open("wb") as sink:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **site.environment("worker", page_port=port, store=tmp_path / "store")}
        worker = subprocess.Popen([sys.executable, "-m", "freshet", "worker"], cwd=ROOT, env=environment, stdout=sink, stderr=sink)
    try:
        users = site.send(60)
        wait_until(lambda: site.known(state, users), seconds=60, alive=lambda: worker.poll() is None)
        wait_until(lambda: healthy(port), seconds=30, alive=lambda: worker.poll() is None)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=10) == 0, output.read_text()
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
        state.close()
    assert SECRET not in output.read_text() and "AuthorizationFailed" not in output.read_text()
    assert site.denied() == []


def healthy(port: int) -> bool:
    """Whether the page says so, and entities are read too."""
    try:
        reply = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
    except httpx.HTTPError:
        return False
    return reply.status_code == 200 and bool(reply.json()["healthy"])


def test_a_certificate_proves_who_we_are_too(site: Secured) -> None:
    own = site.authority.issue("worker")
    given = {"kafka": site.kafka.mutual, "kafka_protocol": "SSL", "kafka_certificate": own.certificate, "kafka_key": own.key}
    with services(site.settings("worker", **given)) as services_:
        assert services_.log.topic(EVENTS).partitions == PARTITIONS
        assert services_.log.end_offset(EVENTS, 0) >= 0


def test_the_operator_may_look_and_the_worker_may_not_write_events(site: Secured) -> None:
    check = freshet("topics", "check", environment=site.environment("operator"))
    told, _ = check.communicate(timeout=60)
    assert check.returncode == 0 and "wrong" not in told, told
    with KafkaLog(site.kafka.as_user("worker")) as log, pytest.raises(KafkaUnreachable, match="TopicAuthorizationFailed") as denied:
        log.append(EVENTS, [Entry(0, b"{}")], now_ms=0)
    assert SECRET not in "".join(traceback.format_exception(denied.value))


def adapters(client: Any, folder: Path) -> None:
    """Everything that state, registry and heartbeats do with Redis."""
    state = RedisState(client, partitions=PARTITIONS)
    shape: dict[str, str | int | float] = {"partitions": 1}
    state_of_its_own = RedisState(client, partitions=PARTITIONS, prefix=f"freshet:{uuid.uuid4().hex}")
    state_of_its_own.shape(shape)
    state_of_its_own.shape(shape)
    claim = state_of_its_own.claim("events", 1, "topic")
    state_of_its_own.commit([Advance(claim, 0, 1)], [Write(COUNTS, 1, ids(1, 2), [b"x", None])])
    state_of_its_own.accept("events", 1, "topic", 2)
    assert list(state_of_its_own.scan(COUNTS, 1)) == [(1, b"x")] and state_of_its_own.watermarks("events") == {1: 2}
    assert state.topic_id("nothing", 0) == ""
    registry = RedisRegistry(client, LocalPlace(folder), f"freshet:{uuid.uuid4().hex}", keep_max=1)
    for number in range(1, 4):
        registry.put(Version(f"g1-h{number}", 1, None, created_ms=number, as_of_number=number, metrics={}), {"model.pt": b"weights"})
    assert registry.promote("g1-h3", expected_sequence=0).version == "g1-h3"
    registry.record({"promoted": True})
    assert len(registry.decisions()) == 1 and [version.name for version in registry.versions()] == ["g1-h3"]
    health = RedisHealth(client, f"freshet:{uuid.uuid4().hex}", records_max=1)
    for pid in (1, 2):
        health.beat(Beat("serving-0", pid, at_ms=pid))
    assert [beat.pid for beat in health.read()] == [2]
    health.forget(Beat("serving-0", 2, at_ms=2))
    state.close()


def test_the_documented_rules_are_enough_for_all_that_lies_in_redis(site: Secured, tmp_path: Path) -> None:
    site.denied()
    adapters(redis_of(site.settings("worker")), tmp_path)
    assert site.denied() == []


def test_the_same_over_a_redis_cluster_that_speaks_tls(tmp_path: Path) -> None:
    users = {REDIS_USER: (f"{SECRET}-redis", redis_rules(cluster=True))}
    authority = Authority(tmp_path / "authority")
    with RedisCluster(tmp_path, lambda place, options: SecuredRedis(place, authority, users=users, options=options)) as cluster:
        settings = Settings(
            redis=cluster.url, redis_cluster=True, redis_user=REDIS_USER, redis_password=SecretStr(f"{SECRET}-redis"), redis_ca=authority.ca
        )
        adapters(redis_of(settings), tmp_path / "models")
        for node in cluster.nodes:
            with node.client() as client:
                assert client.acl_log() == []
        with pytest.raises(ServiceUnreachable, match="FRESHET_REDIS_PASSWORD") as denied:
            redis_of(settings.model_copy(update={"redis_password": SecretStr(WRONG)}))
        assert SECRET not in "".join(traceback.format_exception(denied.value))


@pytest.mark.parametrize(
    "command",
    [("GET", "others:x"), ("HGETALL", "freshe"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SCAN", "0"), ("ACL", "LIST"),
     ("EVAL", "return 1", "0"), ("DEL", "others:x"), ("SUBSCRIBE", "x"), ("MEMORY", "USAGE", "freshet:x")],
    ids=" ".join,
)  # fmt: skip
def test_the_documented_user_reaches_nothing_else(command: tuple[str, ...], site: Secured) -> None:
    client: Any = redis_of(site.settings("worker"))
    with client, pytest.raises(redis.ResponseError, match="no permissions"):
        client.execute_command(*command)


def called(paths: Sequence[Path]) -> set[str]:
    """The Redis commands that our code names: methods of clients and pipelines, calls in scripts, and commands of transactions."""
    found: set[str] = set()
    for path in paths:
        source = path.read_text()
        found |= {name.lower() for name in re.findall(r"redis\.call\('([A-Z]+)'", source) + re.findall(r"\(\"([A-Z]+)\",", source)}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                if owner in ("client", "pipe", "self._client", "site.client") and hasattr(redis.Redis, node.func.attr):
                    found.add(node.func.attr)
    same = {"delete": "del", "scan_iter": "scan"}
    return {same.get(name, name) for name in found} - {"pipeline", "close", "execute", "register_script"}


def test_the_documented_rules_name_what_the_code_calls_and_no_more() -> None:
    """Scripts themselves are EVALSHA and SCRIPT LOAD."""
    allowed = {rule[1:] for rule in redis_rules().split() if rule.startswith("+")} - {"evalsha", "script|load"}
    files = [*sorted((ROOT / "storage").glob("*_redis.py")), ROOT / "freshet" / "cluster.py"]
    assert called(files) - {"evalsha"} == allowed
    operators = {rule[1:] for rule in added("scan").split()}
    assert called(sorted((ROOT / "freshet").glob("cluster_*.py"))) <= allowed | operators


def test_no_secret_is_in_what_is_shown_of_settings_and_clients(site: Secured) -> None:
    settings = site.settings("worker", qdrant_key=f"{SECRET}-qdrant")
    kafka = kafka_of(settings)
    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(kafka), str(kafka), repr(redis_of(settings))]
    assert not any(SECRET in text for text in shown)
    assert SECRET in json.dumps(kafka.options()), "the test would find it"


def test_no_secret_is_in_what_refused_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as refused_:
        Settings(kafka_password=SecretStr(SECRET), redis_password=SecretStr(SECRET), port=0)
    monkeypatch.setenv("FRESHET_KAFKA_PASSWORT", SECRET)
    with pytest.raises(ValidationError, match="no such setting: FRESHET_KAFKA_PASSWORT") as unknown:
        Settings()
    for error in (refused_.value, unknown.value):
        assert SECRET not in str(error) + repr(error) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "given", [{"protocol": "SASL"}, {"protocol": "SASL_SSL", "user": ""}, {"certificate": Path("c")}, {"ca": Path("c")}]
)
def test_no_secret_is_in_what_a_refused_kafka_says(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Kafka|needs|is no file") as wrong:
        Kafka("127.0.0.1:1", **({"user": "u", "password": SECRET} | given))
    assert SECRET not in "".join(traceback.format_exception(wrong.value))


def test_no_secret_is_logged_even_at_debug(site: Secured, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="kafka"), services(site.settings("worker")) as services_:
        assert services_.log.topic(EVENTS).partitions == PARTITIONS
    assert "kafka" in {record.name.split(".")[0] for record in caplog.records}, "they do log"
    assert SECRET not in caplog.text
