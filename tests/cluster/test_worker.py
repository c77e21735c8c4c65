"""Effect once in a cluster: real Kafka, real Redis, a worker as a process that is killed at every named point.

What else happens to workers and to what they stand on is in `test_faults.py`.
"""

import random
import signal

import pytest

from bench.faults.points import POINTS
from freshet.clock import now_ms
from stream.edges import EDGES
from stream.ingest import EVENTS
from stream.worker import REST_MAX_S, Worker, run
from tests.cluster.installation import Site
from tests.stream.event_logs import expected, make_messages
from tests.stream.oracle import Oracle

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


def test_a_worker_rests_after_rounds_of_little_and_goes_on(site: Site) -> None:
    oracle, dead = filled(site, seed=5, messages=60)
    worker, rests = Worker(site.kafka, site.state, site.log, site.shape, group=site.name, session_ms=3000), list[float]()

    def applied() -> bool:
        return all(site.state.watermarks(topic).get(0, 0) == site.log.end_offset(topic, 0) for topic in (EVENTS, EDGES))

    run(worker, clock_ms=now_ms, stopping=applied, rest=rests.append)
    assert rests and all(0 < rest_s <= REST_MAX_S for rest_s in rests)
    site.assert_effect_once(oracle, dead)
