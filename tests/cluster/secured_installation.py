"""Services that ask who we are: Kafka over TLS with users, Redis over TLS with an ACL user, each given what docs/security.md says.

site = secured(); with services(site.settings("worker")) as services_: ...
"""

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from bench.secured import Authority, SecuredKafka, SecuredRedis
from freshet.settings import Settings
from storage.arrays import U64s
from storage.ids import USER, hash_id
from storage.log import JSON, Entry
from storage.state import HISTORIES
from storage.state_redis import RedisState
from stream.events import Event
from stream.ingest import EVENTS
from stream.log_kafka import KafkaLog
from stream.routing import partition_of
from stream.wire import encode_event
from tests.cluster.installation import ROOT
from tests.services import running

USERS = ("worker", "producer", "operator")
PARTITIONS = 3
SECRET = f"hush{uuid.uuid4().hex}"
"""Every password here begins so."""
WRONG = f"{SECRET}-wrong"
REDIS_USER = "freshet"
DOCUMENT = (ROOT / "docs" / "security.md").read_text()


def ids(*values: int) -> U64s:
    """As the state takes them."""
    return np.array(values, dtype=np.uint64)


def redis_rules(*, cluster: bool = False) -> str:
    """The ACL rules of the document, without the name and the password."""
    (rules,) = re.findall(rf"^user {REDIS_USER} on >PASSWORD (.+)$", DOCUMENT, re.MULTILINE)
    return f"{rules} {added('cluster|slots')}" if cluster else rules


def added(command: str) -> str:
    """The line of further rules that has this command."""
    (line,) = re.findall(rf"^(\+[^\n`]*{re.escape(command)}[^\n`]*)$", DOCUMENT, re.MULTILINE)
    return str(line)


def kafka_rules(principal: str, process: str) -> list[ACL]:
    """The rows of the document for one process."""
    rows = re.findall(rf"^\| {process} \| (topic|group) \| ([a-z-]+) \| ([a-z_, ]+) \|$", DOCUMENT, re.MULTILINE)
    assert rows, process
    return [
        ACL(
            f"User:{principal}", "*", ACLOperation[operation.strip().upper()], ACLPermissionType.ALLOW,
            ResourcePattern(ResourceType[kind.upper()], name),
        )
        for kind, name, operations in rows
        for operation in operations.split(",")
    ]  # fmt: skip


@dataclass(frozen=True)
class Secured:
    """Services that ask who we are, and the settings of each process."""

    authority: Authority
    stranger: Authority
    kafka: SecuredKafka
    redis: SecuredRedis

    def environment(self, user: str, **given: object) -> dict[str, str]:
        """The settings of a process as environment variables."""
        settings = {
            "kafka": self.kafka.bootstrap, "kafka_protocol": "SASL_SSL", "kafka_user": user, "kafka_password": f"{SECRET}-{user}",
            "kafka_ca": self.authority.ca, "redis": self.redis.url, "redis_user": REDIS_USER, "redis_password": f"{SECRET}-redis",
            "redis_ca": self.authority.ca, "partitions": PARTITIONS,
        }  # fmt: skip
        return {f"FRESHET_{name.upper()}": str(value) for name, value in (settings | given).items()}

    def settings(self, user: str, **given: object) -> Settings:
        """The same in this process."""
        values: dict[str, Any] = {name.removeprefix("FRESHET_").lower(): value for name, value in self.environment(user, **given).items()}
        return Settings(**values)

    def denied(self) -> list[Mapping[str, Any]]:
        """What Redis has refused to somebody who was let in, since the last call."""
        with self.redis.client() as client:
            found = [entry for entry in client.acl_log() if entry["reason"] != "auth"]
            client.execute_command("ACL LOG RESET")
        return found

    def send(self, count: int) -> list[str]:
        """So many events of users that nobody knew; returns the users."""
        users = [uuid.uuid4().hex for _ in range(count)]
        now_ms = int(time.time() * 1000)
        bodies = [encode_event(Event(user_id=user, action="view", item_id="i", ts_ms=now_ms)) for user in users]
        with KafkaLog(self.kafka.as_user("producer")) as log:
            entries = [Entry(partition_of(user, PARTITIONS), body, JSON, user.encode()) for user, body in zip(users, bodies, strict=True)]
            log.append(EVENTS, entries, now_ms=now_ms)
        return users

    def known(self, state: RedisState, users: Sequence[str]) -> bool:
        """Whether each of them has a history."""
        asked = [(HISTORIES, partition_of(user, PARTITIONS), ids(hash_id(user, USER))) for user in users]
        return all(blob is not None for (blob,) in state.read_many(asked))


def freshet(*arguments: str, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """A child: the command, or Python with `-c`."""
    command = [sys.executable, *arguments] if arguments[0] == "-c" else [sys.executable, "-m", "freshet", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


@cache
def secured() -> Secured:
    """Started once; topics made by the command, as the operator."""
    authorities: list[Authority] = []

    def kafka(folder: Path) -> SecuredKafka:
        authorities[:] = [Authority(folder / "authority"), Authority(folder / "stranger")]
        return SecuredKafka(folder / "kafka", authorities[0], users={user: f"{SECRET}-{user}" for user in USERS})

    server = running(kafka)
    users = {REDIS_USER: (f"{SECRET}-redis", redis_rules())}
    made = Secured(authorities[0], authorities[1], server, running(lambda folder: SecuredRedis(folder, authorities[0], users=users)))
    admin = KafkaAdminClient(**server.client_options())
    admin.create_acls([acl for user in USERS for acl in kafka_rules(user, user)] + kafka_rules("CN=worker", "worker"))
    admin.close()
    create = freshet("topics", "create", environment=made.environment("operator"))
    told, _ = create.communicate(timeout=60)
    assert create.returncode == 0 and SECRET not in told, told
    return made
