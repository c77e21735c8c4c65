"""Effect once in a cluster: real Kafka, real Redis, workers as processes that are killed, paused and joined by others."""

import random
import signal

import pytest

from bench.services import wait_until
from stream.ingest import EVENTS
from tests.cluster.installation import Site
from tests.stream.event_logs import expected, make_messages
from tests.stream.oracle import Oracle

POINTS = (
    "before dead letters", "after dead letters", "before edges", "after edges", "before commit", "after commit",
    "before edges commit", "after edges commit",
)  # fmt: skip
KILLED = -signal.SIGKILL


def filled(site: Site, *, seed: int, messages: int) -> tuple[Oracle, int]:
    """What is on the log must come to this, and costs so many dead letters."""
    made = make_messages(random.Random(seed), site.shape, count=messages)
    return expected(site.shape, made, site.fill(made)), sum(message.refused for message in made)


def test_a_worker_applies_everything_once(wide: Site) -> None:
    oracle, dead = filled(wide, seed=1, messages=600)
    wide.work_until_applied()
    wide.assert_effect_once(oracle, dead)


@pytest.mark.parametrize("point", POINTS)
def test_effect_once_when_a_worker_is_killed_at_every_named_point(point: str, site: Site) -> None:
    oracle, dead = filled(site, seed=3, messages=240)
    assert site.start(point=point).wait(timeout=60) == KILLED
    site.work_until_applied()
    site.assert_effect_once(oracle, dead)


def test_effect_once_when_partitions_move_to_a_worker_that_joins_and_back_from_one_that_dies(wide: Site) -> None:
    oracle, dead = filled(wide, seed=5, messages=3000)
    first = wide.start()
    wait_until(lambda: any(wide.state.watermarks(EVENTS).values()), seconds=30)
    second = wide.start()
    wait_until(lambda: wide.epochs(EVENTS) > wide.shape.partitions, seconds=30)
    more, more_dead = filled(wide, seed=6, messages=300)
    first.kill()
    first.wait()
    wide.wait_applied()
    assert second.poll() is None, "the other worker took over"
    assert wide.totals()["dead"] == dead + more_dead
    assert wide.totals()["accepted"] == sum(oracle.accepted.values()) + sum(more.accepted.values())


@pytest.mark.parametrize("point", ["before edges", "before commit"])
def test_effect_once_when_a_worker_is_paused_past_its_session(point: str, site: Site) -> None:
    """A twin that wakes up has lost its claim: nothing of what it still holds is written, and what it still sends has no effect."""
    oracle, dead = filled(site, seed=7, messages=1500)
    sleeper = site.start(pause=point)
    wait_until(lambda: site.stopped(sleeper), seconds=60)
    site.work_until_applied()
    sleeper.send_signal(signal.SIGCONT)
    site.wait_applied()
    sleeper.send_signal(signal.SIGTERM)
    assert sleeper.wait(timeout=15) == 0, "it goes on as one worker among others"
    site.assert_effect_once(oracle, dead)
