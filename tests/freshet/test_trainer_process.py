"""The trainer of the cluster form: when it trains, what it waits for, and that two never both promote.

The child is the real one once; elsewhere a stand-in program leaves the files of a small real model.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from bench.services import wait_until
from freshet.learning.job import Job, Outcome
from freshet.processes.trainer import ALIVE_MS, COUNT_MS, PROPOSED_MS_MAX, Options, Shared, Trainer
from storage.learned import Learned, LearnedRedis
from storage.leases_redis import Leases
from tests.freshet.cluster_trainers import CHILD_S, EVERY, RENEW_MS, beat, events, stepped, trainer_of
from tests.freshet.followed import PARTITIONS, Flaky, Followed
from tests.freshet.sites import NOW_MS
from tests.freshet.sites import site as embedded
from tests.freshet.stand_in import StandIn
from tests.services import redis_server


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    yield StandIn(tmp_path / "stand-in", monkeypatch)


def decisions(site: Followed) -> list[tuple[object, object]]:
    return [(decision["version"], decision["promoted"]) for decision in site.registry().decisions()]


def live(site: Followed) -> str | None:
    record = site.registry().live()
    return record.version if record else None


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_cadence_counts_events_of_all_partitions_and_time_since_the_last(site: Followed, says: StandIn) -> None:
    says.better(promote=False)
    trainer = trainer_of(site)
    events(site, 9)
    assert stepped(trainer, NOW_MS) is None and not trainer.began_ms, "9 are too few"
    events(site, 1, first=9)
    assert stepped(trainer, NOW_MS) is None, "they are counted once a second"
    outcome = stepped(trainer, NOW_MS + COUNT_MS)
    assert outcome is not None and (outcome.promoted, outcome.reason, outcome.events) == (False, "worse", 10)
    events(site, 30, first=10)
    assert stepped(trainer, NOW_MS + 2 * COUNT_MS) is None, "too soon"
    assert stepped(trainer, NOW_MS + COUNT_MS + EVERY.interval_ms_min) is not None
    assert decisions(site) == [("g1-1", False), ("g2-2", False)]
    trainer.close()


def test_a_child_is_told_what_to_compute_on(site: Followed, says: StandIn) -> None:
    says.better(promote=False)
    trainer = trainer_of(site)
    events(site, 20)
    trainer.step(now_ms=NOW_MS)
    assert trainer._child is not None and (trainer._child.job.device, trainer._child.job.precision) == ("cuda", "bfloat16")
    trainer.close()


def test_a_proposal_is_flipped_when_it_is_built_and_loaded_by_all_who_answer(site: Followed, says: StandIn) -> None:
    trainer = trainer_of(site)
    events(site, 20)
    beat(site, "api-1", NOW_MS)
    beat(site, "api-2", NOW_MS)
    beat(site, "api-dead", NOW_MS - ALIVE_MS - 1)
    beat(site, "refresher-1", NOW_MS)
    assert stepped(trainer, NOW_MS) is None
    assert site.registry().candidate() == "g1-1"
    assert live(site) is None
    beat(site, "api-1", NOW_MS, candidate="g1-1")
    beat(site, "api-2", NOW_MS, candidate="g1-1")
    assert trainer.step(now_ms=NOW_MS + 1) is None, "not built"
    beat(site, "api-2", NOW_MS, candidate="other")
    beat(site, "refresher-1", NOW_MS, candidate="g1-1", built="g1-1")
    assert trainer.step(now_ms=NOW_MS + 2) is None, "one that answers has not loaded it"
    assert live(site) is None
    beat(site, "api-2", NOW_MS, candidate="g1-1")
    outcome = trainer.step(now_ms=NOW_MS + 3)
    assert outcome is not None and (outcome.promoted, outcome.reason, outcome.numbers) == (True, "better", {"gain": 0.5})
    assert (live(site), site.registry().candidate()) == ("g1-1", None)
    assert decisions(site) == [("g1-1", True)]
    stored = site.registry().version("g1-1")
    assert (stored.as_of_number, stored.created_ms) == (7, NOW_MS + 2000), "when its training ended"
    assert list((site.folder / "one" / "training").iterdir()) == []
    trainer.close()


def test_heads_follow_a_trunk_in_its_generation_and_the_next_trunk_gets_a_new_one(site: Followed, says: StandIn) -> None:
    trainer, now_ms = trainer_of(site), NOW_MS
    kinds = []
    for n in range(3):
        events(site, 20, first=20 * n)
        now_ms += EVERY.interval_ms_min
        assert stepped(trainer, now_ms) is None
        name = site.registry().candidate()
        beat(site, "refresher-1", now_ms, candidate=name, built=name)
        outcome = trainer.step(now_ms=now_ms)
        assert outcome is not None and outcome.promoted
        kinds.append((outcome.version, outcome.kind))
    assert kinds == [("g1-1", "trunk"), ("g1-2", "head"), ("g2-3", "trunk")]
    trainer.close()


@pytest.mark.parametrize(("built", "words"), [(False, "nobody filled its collection"), (True, "api-1 not ready for it")])
def test_a_proposal_that_nobody_makes_ready_is_withdrawn_with_the_reason(site: Followed, says: StandIn, built: bool, words: str) -> None:
    trainer = trainer_of(site)
    events(site, 20)
    stepped(trainer, NOW_MS)
    late = NOW_MS + PROPOSED_MS_MAX
    beat(site, "api-1", late - 1)
    beat(site, "refresher-1", late - 1, candidate="g1-1", built="g1-1" if built else None)
    assert trainer.step(now_ms=late - 1) is None
    outcome = trainer.step(now_ms=late)
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith("withdrawn: ") and words in outcome.reason
    assert (site.registry().candidate(), live(site), decisions(site)) == (None, None, [("g1-1", False)])
    trainer.close()


def test_when_another_version_went_live_meanwhile_the_flip_is_refused(site: Followed, says: StandIn) -> None:
    trainer = trainer_of(site)
    events(site, 20)
    stepped(trainer, NOW_MS)
    site.store("by-hand", 1)
    site.promote("by-hand")
    beat(site, "refresher-1", NOW_MS, candidate="g1-1", built="g1-1")
    outcome = trainer.step(now_ms=NOW_MS)
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith("another version went live meanwhile")
    assert (live(site), site.registry().candidate()) == ("by-hand", None)
    trainer.close()


def test_of_two_trainers_one_trains_and_what_both_compared_with_the_same_goes_live_once(site: Followed, says: StandIn) -> None:
    """The lease is convenience: a paused holder comes back with a proposal, and the record refuses it."""
    one, two = trainer_of(site, "one", lease_ms=1), trainer_of(site, "two")
    events(site, 20)
    stepped(one, NOW_MS)
    assert site.registry().candidate() == "g1-1"

    def taken() -> bool:
        two.step(now_ms=NOW_MS + RENEW_MS * next(later))
        return two.leading

    later = iter(range(1, 1000))
    wait_until(taken, seconds=10)
    assert site.registry().candidate() in (None, "g2-2"), "the dead one's proposal is withdrawn"
    wait_until(lambda: two._proposed is not None or stepped(two, NOW_MS) is not None or two._proposed is not None, seconds=60)
    beat(site, "refresher-1", NOW_MS + 10**6, built="g1-1")
    beat(site, "refresher-2", NOW_MS + 10**6, built=site.registry().candidate())
    outcomes = [trainer._settle(trainer._proposed, NOW_MS + 10**6) for trainer in (two, one) if trainer._proposed is not None]
    assert [outcome is not None and outcome.promoted for outcome in outcomes] == [True, False]
    assert len([promoted for _, promoted in decisions(site) if promoted]) == 1
    for trainer in (one, two):
        trainer.close()


def test_a_lease_that_is_lost_ends_the_child_and_uses_nothing_of_it(site: Followed, says: StandIn) -> None:
    says.shell("exec sleep 600")
    one = trainer_of(site, "one", lease_ms=200)
    events(site, 20)
    one.step(now_ms=NOW_MS)
    assert one._child is not None
    pid, other = one._child.pid, Leases(site.client, "trainer", owner="other", prefix=site.prefix)
    wait_until(lambda: other.hold([0], share=1) == {0} or bool(other.held), seconds=10)
    assert not gone(pid)
    assert one.step(now_ms=NOW_MS + RENEW_MS) is None
    assert not one.leading
    assert gone(pid)
    assert list((site.folder / "one" / "training").iterdir()) == []
    one.close()
    assert other.hold([0], share=1) == set(), "closing does not give back what is another's"
    assert other.held == {0}


def test_one_that_stands_by_leaves_the_leaders_folder_alone(site: Followed, says: StandIn) -> None:
    """Two on one machine share its data folder."""
    says.shell('echo begun > "$out/begun"; exec sleep 600')
    one, by = trainer_of(site, "one"), trainer_of(site, "one")
    by._shared.leases._owner = "by"
    events(site, 20)
    one.step(now_ms=NOW_MS)
    wait_until((site.folder / "one/training/g1-1/begun").exists, seconds=10)
    by.step(now_ms=NOW_MS)
    assert (one.leading, by.leading) == (True, False)
    assert (site.folder / "one/training/g1-1/begun").exists()
    for trainer in (by, one):
        trainer.close()
    assert not (site.folder / "one/training/g1-1").exists()


def test_what_a_killed_trainer_proposed_is_withdrawn_and_what_it_left_is_swept(site: Followed, says: StandIn) -> None:
    killed = trainer_of(site, "one", lease_ms=200)
    events(site, 20)
    stepped(killed, NOW_MS)
    assert site.registry().candidate() == "g1-1"
    left = site.folder / "one" / "training" / "left"
    left.mkdir(parents=True)
    after, later = trainer_of(site, "one"), iter(range(1, 1000))
    after._shared.leases._owner = "after"
    says.shell("exit 1")

    def leads() -> bool:
        after.step(now_ms=NOW_MS + RENEW_MS * next(later))
        return after.leading

    wait_until(leads, seconds=10)
    assert site.registry().candidate() is None
    assert not left.exists()
    assert live(site) is None
    after.close()


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ('echo "ValueError: too little" >&2; exit 1', "failed: the training process ended with 1: ValueError: too little"),
        ("exit 0", "failed: the training process ended with 0: it said nothing"),
        ('cp "$whole/report.json" "$out"', "failed: [Errno 2] No such file"),
        ('cp "$whole"/*.bin "$out"; printf nonsense > "$out/report.json"', "failed: "),
    ],
)
def test_a_training_that_fails_is_an_outcome_on_record(site: Followed, says: StandIn, shell: str, words: str) -> None:
    says.shell(shell)
    trainer = trainer_of(site)
    events(site, 20)
    outcome = stepped(trainer, NOW_MS)
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith(words)
    assert site.registry().decisions() == [msgspec.to_builtins(outcome)]
    assert (site.registry().versions(), site.registry().candidate()) == ([], None)
    assert list((site.folder / "one" / "training").iterdir()) == []
    trainer.close()


def test_a_store_that_is_away_is_a_failed_training(site: Followed, says: StandIn) -> None:
    trainer = trainer_of(site)
    events(site, 20)
    trainer.step(now_ms=NOW_MS)
    (site.folder / "models").rename(site.folder / "away")
    (site.folder / "models").write_text("no folder")
    outcome = stepped(trainer, NOW_MS)
    assert outcome is not None and outcome.reason.startswith("failed: ")
    (site.folder / "models").unlink()
    (site.folder / "away").rename(site.folder / "models")
    assert (decisions(site), site.registry().candidate()) == ([("g1-1", False)], None)
    says.better()
    assert stepped(trainer, NOW_MS + EVERY.interval_ms_min) is None
    assert site.registry().candidate() == "g2-2", "what was not learned from is due again"
    trainer.close()


def test_no_name_and_no_generation_is_given_twice_also_when_versions_were_pruned(site: Followed, says: StandIn) -> None:
    site.registry().record({"version": "g7-12", "promoted": False})
    site.store("by-hand", 9)
    trainer = trainer_of(site)
    events(site, 20)
    stepped(trainer, NOW_MS)
    assert site.registry().candidate() == "g10-13"
    trainer.close()
    assert site.registry().candidate() is None, "a clean end withdraws it"


@pytest.mark.parametrize(("at", "answers_lost"), [*((at, False) for at in range(1, 15)), *((at, True) for at in range(2, 15, 3))])
def test_a_redis_that_is_away_at_any_step_delays_and_changes_nothing(site: Followed, says: StandIn, at: int, answers_lost: bool) -> None:
    flaky = Flaky.of(redis_server())
    trainer = trainer_of(site, client=flaky)
    events(site, 20)
    trainer.step(now_ms=NOW_MS)
    assert trainer._child is not None
    trainer._child.wait(CHILD_S)
    flaky.away_at, flaky.answers_lost = at, answers_lost
    outcomes: list[Outcome] = []
    for n in range(10):
        name = site.registry().candidate()
        beat(site, "api-1", NOW_MS, candidate=name)
        beat(site, "refresher-1", NOW_MS, candidate=name, built=name)
        try:
            outcome = trainer.step(now_ms=NOW_MS + n)
        except redis.ConnectionError:
            continue
        outcomes += [outcome] if outcome else []
        if outcomes:
            break
    assert [(outcome.version, outcome.promoted) for outcome in outcomes] == [("g1-1", True)]
    assert (live(site), site.registry().candidate()) == ("g1-1", None)
    assert decisions(site) in ([("g1-1", True)], [("g1-1", True)] * 2 if answers_lost else [("g1-1", True)])
    flaky.away_at = -1
    trainer.close()
    flaky.close()


def test_a_real_child_learns_from_the_shared_archive_and_the_state(site: Followed) -> None:
    """Its environment names the services; the archive is that of an embedded folder with the same events."""
    site.fill()
    with embedded(site.folder / "store"):
        pass
    environment = {
        "FRESHET_REDIS": redis_server().url, "FRESHET_REDIS_PREFIX": site.prefix, "FRESHET_PARTITIONS": str(PARTITIONS),
        "FRESHET_DATA": str(site.folder / "store"),
    }  # fmt: skip
    options = Options(site.folder / "training", EVERY, trunk_every=2, seconds_max=4, partitions=PARTITIONS, environment=environment)
    leases = Leases(site.client, "trainer", owner="real", prefix=site.prefix)
    shared = Shared(site.state, site.registry(), site.health, leases, LearnedRedis(site.client, site.prefix))
    trainer = Trainer(shared, options)
    outcome = stepped(trainer, NOW_MS)
    if outcome is None:
        name = site.registry().candidate()
        beat(site, "refresher-1", NOW_MS, built=name)
        outcome = trainer.step(now_ms=NOW_MS)
    assert outcome is not None
    assert not outcome.reason.startswith("failed"), outcome.reason
    assert {"cases", "candidate", "live", "weight_neural"} <= set(outcome.numbers)
    assert (live(site) == "g1-1") == outcome.promoted
    if outcome.promoted:
        api = site.process("api", refreshes=False)
        assert api.version == "g1-1"
    trainer.close()


@pytest.mark.parametrize(("learned_of", "told"), [("g1-1", "[learned]"), ("g0-9", None), (None, None)])
def test_a_child_is_told_the_weights_that_the_live_version_answers_with(
    site: Followed, says: StandIn, learned_of: str | None, told: str | None
) -> None:
    site.store("g1-1", 1)
    site.promote("g1-1")
    if learned_of:
        LearnedRedis(site.client, site.prefix).write(Learned(learned_of, 5, "[learned]"))
    else:
        site.client.set(LearnedRedis(site.client, site.prefix).where, b"what is no record")
    says.shell('cp "$3" "$whole/job"; exit 1')
    events(site, 20)
    trainer = trainer_of(site)
    stepped(trainer, NOW_MS)
    assert msgspec.json.decode((says.folder / "job").read_bytes(), type=Job).blend == told
    trainer.close()


def test_the_job_reads_the_services_that_the_environment_names(site: Followed, says: StandIn) -> None:
    says.shell('cp "$3" "$whole/job"; exit 1')
    trainer = trainer_of(site)
    events(site, 20)
    stepped(trainer, NOW_MS)
    job = msgspec.json.decode((says.folder / "job").read_bytes(), type=Job)
    assert (job.data, job.parent, job.kind) == (None, None, "trunk")
    assert Path(job.out).is_absolute()
    trainer.close()
