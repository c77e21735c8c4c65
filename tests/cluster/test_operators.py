"""The operators' commands over a real Kafka and Redis: each tells the truth, and each way out of trouble leads out."""

import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

from bench.services import wait_until
from freshet.cluster import Services, admin
from freshet.operators.cluster_lag import cluster_status, members
from freshet.operators.cluster_losses import accept_gaps, accepted
from freshet.operators.cluster_rebuild import CannotRebuild, rebuild
from freshet.operators.cluster_verify import ClusterVerified, distance, replayed, verify
from freshet.operators.redrive import ClusterBox, redrive
from storage.archive import Archive
from storage.log import Entry
from storage.state import HISTORIES, Gap, Write
from storage.state_redis import RedisState
from stream.archiving import archive_rows
from stream.deadletters import DEAD_LETTERS, DeadLetter, encode
from stream.edges import EDGES
from stream.entities import ENTITIES
from stream.events import Event
from stream.ingest import EVENTS
from stream.log_kafka import KafkaLog
from stream.routing import partition_of
from stream.wire import decode, decode_event, encode_event
from tests.cluster.installation import Site
from tests.stream.event_logs import APPEND_MS, expected, make_messages
from tests.stream.oracle import Oracle


def quiet(_: int) -> None:
    """A progress bar that nobody looks at."""


def services_of(site: Site) -> Services:
    """What the commands work with, of this installation."""
    return Services(site.kafka, site.log, site.state, site.shape, client=site.state._client, prefix=site.name, group=site.name)


@pytest.fixture
def whole(wide: Site) -> Iterator[Site]:
    """Three partitions, and the topic of entities."""
    with admin(wide.kafka) as client:
        client.create_topics([NewTopic(wide.kafka.topic(ENTITIES), 3, 1, topic_configs={"cleanup.policy": "compact"})])
        client.wait_for_topics([wide.kafka.topic(ENTITIES)])
    yield wide


def filled(site: Site, *, seed: int, messages: int) -> tuple[Oracle, int]:
    made = make_messages(random.Random(seed), site.shape, count=messages)
    return expected(site.shape, made, site.fill(made)), sum(message.refused for message in made)


def truth(site: Site) -> dict[tuple[str, int], int]:
    """End less watermark, read without what is under test."""
    ends = {(topic, n): site.log.end_offset(topic, n) for topic in (EVENTS, EDGES) for n in range(site.shape.partitions)}
    marks = {(t, n): int(site.state._client.hget(site.state._stream(t, n), "w") or 0) for t, n in ends}
    return {at: end - marks[at] for at, end in ends.items()}


def told(site: Site) -> tuple[dict[tuple[str, int], int], set[str | None]]:
    """The lags that `freshet lag` tells, and who reads events."""
    status = cluster_status(services_of(site))
    rows = {(row["topic"], row["partition"]): row for row in status["partitions"]}
    assert status["lag_records"] == sum(row["lag"] for (topic, _), row in rows.items() if topic == EVENTS)
    assert all(rows[ENTITIES, n]["lag"] == 0 for n in range(site.shape.partitions))
    return {at: row["lag"] for at, row in rows.items() if at[0] != ENTITIES}, {rows[EVENTS, n]["reader"] for n in range(3)}


def alone(site: Site) -> bool:
    with admin(site.kafka) as client:
        return not members(client, site.kafka, site.name)


def test_lag_is_the_truth_for_live_idle_paused_and_dead_consumers(whole: Site) -> None:
    filled(whole, seed=1, messages=200)
    assert told(whole) == (truth(whole), {None}), "nobody has begun"
    assert sum(truth(whole).values()) == 200
    worker = whole.start()
    whole.wait_applied()
    lags, readers = told(whole)
    assert lags == truth(whole) and not any(lags.values()) and None not in readers, "an idle one"
    worker.send_signal(signal.SIGSTOP)
    wait_until(lambda: whole.stopped(worker), seconds=30)
    filled(whole, seed=2, messages=60)
    assert told(whole)[0] == truth(whole), "a paused one, still in the group"
    wait_until(lambda: alone(whole), seconds=60)
    assert told(whole) == (truth(whole), {None}) and sum(truth(whole).values()) == 60
    worker.send_signal(signal.SIGCONT)
    whole.wait_applied()
    assert told(whole)[0] == truth(whole)
    worker.kill()
    worker.wait()
    filled(whole, seed=3, messages=40)
    wait_until(lambda: alone(whole), seconds=60)
    assert told(whole) == (truth(whole), {None}) and sum(truth(whole).values()) == 40


def strays(site: Site, count: int) -> list[Event]:
    """Events of users, each in every partition but its own; every second without an id."""
    oracle = Oracle(site.shape)
    events = [
        Event(user_id=f"u{n % 7}", action="view", item_id=f"i{n % 11}", ts_ms=1_700_000_000_000 + n, event_id=f"e{n}" if n % 2 else None)
        for n in range(count)
    ]
    entries = [Entry((oracle.partition(event.user_id) + 1) % site.shape.partitions, encode_event(event)) for event in events]
    site.log.append(EVENTS, entries, now_ms=APPEND_MS)
    return events


def test_misrouted_letters_are_sent_where_they_belong_and_twice_is_once(whole: Site) -> None:
    events = strays(whole, 60)
    whole.work_until_applied()
    assert whole.totals() == {"accepted": 0, "duplicates": 0, "dead": 60}
    box = ClusterBox(services_of(whole))

    def again(*, dry: bool = False) -> int:
        found = list(redrive(box, whole.shape, wanted=lambda one: one.kind == "misrouted", edits={}, now_ms=APPEND_MS, dry=dry))
        assert all(one.entry is not None for one in found)
        return len(found)

    ends = [whole.log.end_offset(EVENTS, n) for n in range(3)]
    assert again(dry=True) == 60 and [whole.log.end_offset(EVENTS, n) for n in range(3)] == ends
    assert again() == 60 and again() == 0, "what was redriven is marked"
    whole.work_until_applied()
    assert whole.totals() == {"accepted": 60, "duplicates": 0, "dead": 60}
    whole.state._client.delete(f"{whole.name}:redriven")
    assert again() == 60, "the marks were lost"
    whole.work_until_applied()
    assert whole.totals() == {"accepted": 120, "duplicates": 60, "dead": 60}, "and the ids tell"
    histories = sum(1 for n in range(3) for _ in whole.state.scan(HISTORIES, n))
    assert histories == len({event.user_id for event in events})


def test_marks_of_letters_that_are_gone_are_forgotten(whole: Site) -> None:
    letter = DeadLetter(
        topic=EVENTS, incarnation=0, partition=0, offset=3, index=0, reason="x", append_ms=1,
        raw=b'{"user_id":"u","action":"view","item_id":"i","ts_ms":1}',
    )  # fmt: skip
    whole.log.append(DEAD_LETTERS, [Entry(0, encode(letter)), Entry(0, b"no letter"), Entry(0, encode(letter))], now_ms=APPEND_MS)
    box = ClusterBox(services_of(whole))
    assert list(box.letters()) == [letter]
    box.mark([letter.name, "events:0:0:1:0"], now_ms=1)
    assert box.forget() == 1 and box.marked() == {letter.name}


def verified(site: Site, archive: Archive) -> ClusterVerified:
    return verify(services_of(site), archive, told=quiet)


def test_verify_tells_a_sound_state_from_a_touched_one_and_a_rebuild_mends_it(whole: Site, tmp_path: Path) -> None:
    oracle, dead = filled(whole, seed=4, messages=400)
    worker = whole.start(session_ms=30_000)  # a test beside it may take the processors for as long as the usual session
    whole.wait_applied()
    archive = Archive(tmp_path)
    sound = verified(whole, archive)
    assert sound.equal and not sound.sampled and sound.live == replayed(services_of(whole), archive, told=quiet)
    with pytest.raises(CannotRebuild, match="lives"):
        rebuild(services_of(whole), archive, told=quiet, now_ms=APPEND_MS)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    node, blob = next(iter(whole.state.scan(HISTORIES, 0)))
    whole.state.commit([], [Write(HISTORIES, 0, np.array([node], dtype=np.uint64), [bytes([blob[0] ^ 1, *blob[1:]])])])
    touched = verified(whole, archive)
    assert not touched.equal and touched.replay == sound.replay
    epochs = whole.epochs(EVENTS)
    assert rebuild(services_of(whole), archive, told=quiet, now_ms=APPEND_MS) > 400
    assert whole.epochs(EVENTS) > epochs, "whoever held a claim has lost it"
    whole.log.close()
    whole.log = KafkaLog(whole.kafka)
    assert whole.applied()
    whole.assert_effect_once(oracle, dead)
    again = verified(whole, archive)
    assert again.equal and [one.state for one in again.live] == [one.state for one in sound.live]


def archived(site: Site, folder: Path) -> Archive:
    """An archive of the whole log of events, as it is now."""
    archive = Archive(folder)
    for partition in range(site.shape.partitions):
        archive.add(archive_rows(decode(site.log.read(EVENTS, partition, 0, records_max=10_000))))
    archive.flush()
    return archive


def forget_records(site: Site, topic: str, before: dict[int, int]) -> None:
    """As retention does."""
    client = KafkaAdminClient(**site.kafka.options())
    client.delete_records({TopicPartition(site.kafka.topic(topic), partition): offset for partition, offset in before.items()})
    client.close()


def test_neighbours_are_sampled_once_edges_has_forgotten_its_first_record(whole: Site, tmp_path: Path) -> None:
    filled(whole, seed=5, messages=300)
    whole.work_until_applied()
    forget_records(whole, EDGES, {0: 1})
    found = verified(whole, archived(whole, tmp_path))
    assert found.equal and found.sampled > 100
    assert 0 <= found.difference < 1


def test_what_retention_took_is_given_up_on_record_and_the_rest_goes_on(whole: Site, tmp_path: Path) -> None:
    filled(whole, seed=6, messages=300)
    whole.work_until_applied()
    marks = whole.state.watermarks(EVENTS)
    filled(whole, seed=7, messages=120)
    archive = archived(whole, tmp_path / "archive")
    forget_records(whole, EVENTS, {0: marks[0] + 5})
    assert whole.start().wait(timeout=60) != 0, "a loud stop"
    (loss,) = accept_gaps(services_of(whole), Archive(tmp_path / "none"), now_ms=7)
    assert (loss.stream, loss.partition, loss.first, loss.end) == (EVENTS, 0, marks[0], marks[0] + 5)
    assert accepted(services_of(whole)) == [loss] and accept_gaps(services_of(whole), archive, now_ms=8) == []
    whole.work_until_applied()
    assert verified(whole, archive).equal, "a replay leaves out what the state never had"
    with pytest.raises(Gap, match="neither in the archive nor in the log"):
        verified(whole, Archive(tmp_path / "none"))


def test_after_retention_a_rebuild_from_the_archive_loses_nothing(whole: Site, tmp_path: Path) -> None:
    oracle, dead = filled(whole, seed=8, messages=300)
    archive = archived(whole, tmp_path)
    forget_records(whole, EVENTS, {0: 20, 1: whole.log.end_offset(EVENTS, 1)})
    with pytest.raises(Gap, match=r"offsets 0\.\.19 of partition 0"):
        rebuild(services_of(whole), Archive(tmp_path / "none"), told=quiet, now_ms=APPEND_MS)
    assert whole.state.watermarks(EVENTS) == {}, "nothing was forgotten"
    rebuild(services_of(whole), archive, told=quiet, now_ms=APPEND_MS)
    accepted_events, duplicates = sum(oracle.accepted.values()), sum(oracle.duplicates.values())
    assert whole.totals() == {"accepted": accepted_events, "duplicates": duplicates, "dead": dead}
    assert all(dict(whole.state.scan(HISTORIES, n)) == oracle.blobs(HISTORIES, n) for n in range(3))


def recreate(site: Site, topic: str) -> None:
    with admin(site.kafka) as client:
        name = site.kafka.topic(topic)
        client.delete_topics([name])
        settings = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**62), "max.message.bytes": str(2 << 20)}

        def made() -> bool:
            try:
                client.create_topics([NewTopic(name, site.shape.partitions, 1, topic_configs=settings)])
            except TopicAlreadyExistsError:
                return False
            return True

        wait_until(made, seconds=30)
        client.wait_for_topics([name])
    site.log.close()
    site.log = KafkaLog(site.kafka)


@pytest.mark.parametrize("way_out", ["accept", "rebuild"])
def test_a_topic_made_anew_is_the_next_incarnation_either_way_out(whole: Site, tmp_path: Path, way_out: str) -> None:
    filled(whole, seed=9, messages=200)
    whole.work_until_applied()
    before, archive = whole.totals(), archived(whole, tmp_path / "archive")
    recreate(whole, EVENTS)
    lags = cluster_status(services_of(whole))["partitions"]
    assert {row["gap"] for row in lags if row["topic"] == EVENTS} == {"the topic was made anew"}
    if way_out == "accept":
        losses = accept_gaps(services_of(whole), archive, now_ms=1)
        assert [(loss.incarnation, loss.end) for loss in losses] == [(0, None)] * 3
    else:
        with pytest.raises(Gap, match="rebuild would lose the rest"):
            rebuild(services_of(whole), Archive(tmp_path / "none"), told=quiet, now_ms=APPEND_MS)
        rebuild(services_of(whole), archive, told=quiet, now_ms=APPEND_MS)
        recreated_edges = KafkaLog(whole.kafka)
        whole.log.close()
        whole.log = recreated_edges
    assert whole.totals() == before
    _, dead = filled(whole, seed=10, messages=100)
    whole.work_until_applied()
    assert whole.totals()["dead"] == before["dead"] + dead and whole.totals()["accepted"] > before["accepted"]
    found = verified(whole, archive)
    assert found.equal and not found.sampled


def test_the_distance_of_two_lists_is_that_of_their_shares() -> None:
    one = b"".join(n.to_bytes(8, "little") for n in (0, 1, 30, 2, 10))
    twice = b"".join(n.to_bytes(8, "little") for n in (1, 1, 60, 2, 20))
    other = b"".join(n.to_bytes(8, "little") for n in (0, 3, 5))
    assert distance(one, one) == distance(one, twice) == 0
    assert distance(one, other) == distance(one, None) + 1 == 2


def test_under_another_partition_count_every_user_moves_with_its_events(whole: Site, tmp_path: Path) -> None:
    filled(whole, seed=11, messages=250)
    whole.state.shape(whole.shape.record())
    whole.work_until_applied()
    before, histories = whole.totals(), {node for n in range(3) for node, _ in whole.state.scan(HISTORIES, n)}
    archive = archived(whole, tmp_path)
    with admin(whole.kafka) as client:
        client.create_partitions({whole.kafka.topic(topic): 5 for topic in (EVENTS, ENTITIES)})
    wait_until(lambda: whole.log.topic(EVENTS).partitions == 5, seconds=30)
    whole.shape = replace(whole.shape, partitions=5)
    whole.log.close()
    whole.log = KafkaLog(whole.kafka)
    whole.state = RedisState(whole.state._client, partitions=5, prefix=whole.name)
    rebuild(services_of(whole), archive, told=quiet, now_ms=APPEND_MS)
    after = whole.totals()
    strays = [letter for letter in whole.letters() if letter.kind == "misrouted"]
    found_home = sum(partition_of(decode_event(letter.raw).user_id, 5) == letter.partition for letter in strays)
    assert after["accepted"] - after["duplicates"] == before["accepted"] - before["duplicates"] + found_home
    found = {(n, node) for n in range(5) for node, _ in whole.state.scan(HISTORIES, n)}
    assert {node for _, node in found} == histories and len(found) == len(histories), "each user is in one partition"
    whole.log.close()
    whole.log = KafkaLog(whole.kafka)
    filled(whole, seed=12, messages=100)
    whole.work_until_applied()
    assert verified(whole, archive).equal
