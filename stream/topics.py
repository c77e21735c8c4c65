"""The topics: which there are, how they must be set up, and what is wrong with those that are there.

create(kafka, partitions=12, replicas=3); for finding in check(kafka, partitions=12): ...
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stream.deadletters import DEAD_LETTERS
from stream.edges import EDGES
from stream.entities import ENTITIES
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable, unreachable

DAY_MS: Final = 86_400_000
RETENTION_MS_MIN: Final = 3 * DAY_MS
MESSAGE_BYTES_MAX: Final = (1 << 20) + (1 << 16)
"""A record of ours is at most 1 MiB; the rest is what Kafka adds."""
_COMMON: Final = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MESSAGE_BYTES_MAX)}


@dataclass(frozen=True)
class Wanted:
    """How a topic is set up: `shared` ones have the state's partition count, the others one partition."""

    name: str
    shared: bool
    retention_ms: int
    compacted: bool = False


TOPICS: Final = (
    Wanted(EVENTS, True, 7 * DAY_MS),
    Wanted(EDGES, True, 7 * DAY_MS),
    Wanted(ENTITIES, True, -1, compacted=True),
    Wanted(DEAD_LETTERS, False, 30 * DAY_MS),
)


@dataclass(frozen=True)
class TopicFinding:
    """One thing about a topic: whether it is as it must be, and what to do if not."""

    topic: str
    fine: bool
    found: str
    do: str = ""


def create(kafka: Kafka, *, partitions: int, replicas: int) -> list[str]:
    """Make what is missing and return its names; what is there is left as it is. Raises `KafkaUnreachable`."""
    made = []
    with _Admin(kafka) as admin:
        for wanted in TOPICS:
            settings = _settings(wanted) | ({"min.insync.replicas": "2"} if replicas > 2 else {})
            topic = NewTopic(kafka.topic(wanted.name), partitions if wanted.shared else 1, replicas, topic_configs=settings)
            try:
                admin.create_topics([topic])
            except TopicAlreadyExistsError:
                continue
            made.append(wanted.name)
        if made:
            admin.wait_for_topics([kafka.topic(name) for name in made])
    return made


def check(kafka: Kafka, *, partitions: int) -> list[TopicFinding]:
    """Compare each topic with what it must be. Raises `KafkaUnreachable`."""
    with _Admin(kafka) as admin:
        there = {topic["name"]: topic for topic in admin.describe_topics()}
        return [finding for wanted in TOPICS for finding in _examined(admin, kafka, wanted, there, partitions)]


def _examined(admin: Any, kafka: Kafka, wanted: Wanted, there: Mapping[str, Any], partitions: int) -> list[TopicFinding]:
    name = kafka.topic(wanted.name)
    if name not in there:
        return [TopicFinding(name, False, "missing", "freshet topics create")]
    count, asked = len(there[name]["partitions"]), partitions if wanted.shared else 1
    findings = [TopicFinding(name, count == asked, f"{count} partitions", f"{asked} are set: freshet rebuild --partitions {count}")]
    found = _config(admin, name)
    stamp = found.get("message.timestamp.type", "")
    findings.append(
        TopicFinding(
            name, stamp == "LogAppendTime", f"message.timestamp.type={stamp}",
            "set LogAppendTime: a replay must decide by the same time as ingest did",
        )
    )  # fmt: skip
    size = int(found.get("max.message.bytes", 0))
    findings.append(TopicFinding(name, size >= MESSAGE_BYTES_MAX, f"max.message.bytes={size}", f"set at least {MESSAGE_BYTES_MAX}"))
    kept, policy = int(found.get("retention.ms", -1)), found.get("cleanup.policy", "")
    if wanted.compacted:
        findings.append(TopicFinding(name, policy == "compact", f"cleanup.policy={policy}", "set compact: entities are kept for ever"))
    else:
        enough = (kept < 0 or kept >= RETENTION_MS_MIN) and policy == "delete"
        what = f"cleanup.policy={policy} retention.ms={kept}"
        findings.append(
            TopicFinding(name, enough, what, f"set delete and at least {RETENTION_MS_MIN} ms: a stop of days must lose nothing")
        )
    return findings


def _settings(wanted: Wanted) -> dict[str, str]:
    policy = {"cleanup.policy": "compact"} if wanted.compacted else {"cleanup.policy": "delete", "retention.ms": str(wanted.retention_ms)}
    return {**_COMMON, **policy}


def _config(admin: Any, name: str) -> dict[str, str]:
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
    entries = described[ConfigResourceType.TOPIC.name.lower()][name] if ConfigResourceType.TOPIC.name.lower() in described else described
    return {key: str(value["value"] if isinstance(value, dict) else value) for key, value in dict(entries).items()}


class _Admin:
    """An admin client that is closed, with Kafka's errors told as ours."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    def __enter__(self) -> Any:
        try:
            self._client = KafkaAdminClient(**self._kafka.options())
        except KafkaError as error:
            raise self._told(error) from error
        return self._client

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._client.close()
        if isinstance(error, KafkaError):
            raise self._told(error) from error

    def _told(self, error: KafkaError) -> KafkaUnreachable:
        return unreachable(self._kafka, error)
