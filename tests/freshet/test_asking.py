"""What is measured on the live stream: an event is ranked before it is applied, seldom enough, and a fall wakes the trainer."""

from pathlib import Path

import msgspec
import numpy as np

from bench.services import wait_until
from encoders.blend import Blend
from freshet.learning.asking import MODEL, PREDECESSOR, Asking
from freshet.server import Runner
from freshet.service import Service
from freshet.version_files import BLEND_FILE
from freshet.versions import ROLL_BACK
from freshet.world.events import World, WorldConfig
from serving.metrics import Metrics
from serving.sources import SOURCES
from storage.ids import ITEM, hash_id
from stream.events import Event
from tests.freshet.sites import NOW_MS, promote, site, train
from tests.freshet.test_training import busy, training_of
from trainers.cadence import Cadence


def watched(service: Service, *, every_ms: int = 0) -> Asking:
    asking = Asking(service, every_ms=every_ms, generator=np.random.default_rng(0))
    service.engine.looking = lambda records, now: asking.before(records, now_ms=now)
    return asking


def publish(service: Service, *events: Event, now_ms: int = NOW_MS) -> None:
    service.engine.append_events([msgspec.json.encode(event) for event in events], now_ms=now_ms)
    service.step(now_ms=now_ms, records_max=len(events))


def fresh_like(service: Service, n: int, user: str = "user 1") -> Event:
    """Of an item the user has not had."""
    context = service.lookup.context(user, now_ms=NOW_MS)
    row = next(row for row in range(len(service.view.catalogue)) if row not in context.seen)
    return Event(event_id=f"n{n}", user_id=user, action="like", item_id=service.view.catalogue.name(row), ts_ms=NOW_MS + n)


def a_user(service: Service) -> str:
    """Somebody of the world with a history."""
    names = (f"u{n}" for n in range(60))
    return next(name for name in names if not service.lookup.context(name, now_ms=NOW_MS).cold)


def test_the_rank_is_that_of_the_look_up_just_before(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        asking, user = watched(service), a_user(service)
        event = fresh_like(service, 1, user)
        row = service.view.catalogue.row(hash_id(str(event.item_id), ITEM))
        current = service.current
        assert current is not None
        ranking = service.lookup.rank(service.lookup.context(user, now_ms=event.ts_ms), current.live)
        place = 1 + int(np.flatnonzero(ranking.rows == row)[0])
        publish(service, event)
        found = asking.statistics.figures()
        assert set(found) == {MODEL, *SOURCES}
        ties = int((ranking.scores == ranking.scores[place - 1]).sum())
        assert abs(1 / found[MODEL]["all"]["reciprocal_rank"] - place) <= ties
        assert asking.statistics.cases == 1


def test_what_says_nothing_of_answers_is_not_counted(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        asking, user = watched(service), a_user(service)
        known = fresh_like(service, 1, user)
        publish(service, known)
        assert asking.statistics.cases == 1
        others = [
            known,
            msgspec.structs.replace(known, event_id="again"),
            msgspec.structs.replace(known, event_id="stranger", user_id="nobody has seen this one"),
            msgspec.structs.replace(known, event_id="new item", item_id="never heard of"),
            msgspec.structs.replace(fresh_like(service, 2, user), action="hide"),
            Event(event_id="s", user_id=user, action="search", query="boots", ts_ms=NOW_MS),
        ]
        for event in others:
            publish(service, event)
        service.engine.append_events([b"{", b"\xff"], now_ms=NOW_MS)
        service.step(now_ms=NOW_MS)
        assert asking.statistics.cases == 1
        assert "neural" not in asking.statistics.figures(), "there is no model yet"


def test_no_more_than_one_is_asked_in_its_time(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        asking, user = watched(service, every_ms=1000), a_user(service)
        for n, now_ms in enumerate((NOW_MS, NOW_MS + 1, NOW_MS + 999, NOW_MS + 1000, NOW_MS + 1500)):
            publish(service, fresh_like(service, n, user), now_ms=now_ms)
        assert asking.statistics.cases == 2


def test_a_fall_wakes_the_trainer_once_it_may_and_a_trunk_is_trained(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        training = training_of(service, cadence=Cadence(10**9, 10**9, 1000))
        accepted = service.engine.tallies.accepted
        assert training.poll(now_ms=NOW_MS, events=accepted) is None and not busy(training)
        training.poll(now_ms=NOW_MS, events=accepted, drifted="the mean outcome fell from .3 to .1")
        assert busy(training)
        training.cancel()
        training.poll(now_ms=NOW_MS + 999, events=accepted + 1, drifted="again")
        assert not busy(training), "the last one began less than a second ago"


def test_a_version_that_does_worse_than_the_one_before_is_taken_back_on_record(tmp_path: Path) -> None:
    with site(tmp_path / "data", batch_records_max=1) as service:
        train(service, tmp_path / "good")
        promote(service, tmp_path / "good", "g1-1")
        train(service, tmp_path / "bad", steps=1)
        least_popular_first = Blend(SOURCES, np.array([float(name == "popular") * -1 for name in SOURCES]))
        (tmp_path / "bad" / BLEND_FILE).write_text(least_popular_first.to_json())
        promote(service, tmp_path / "bad", "g2-2", generation=2)
        asking, metrics = Asking(service, every_ms=0, generator=np.random.default_rng(0)), Metrics()
        runner = Runner(service, training_of(service, cadence=Cadence(10**9, 10**9, 1000)), metrics, asking)
        later = World(WorldConfig(seed=2, users=60, items=80, events=1500))
        service.engine.append_events([msgspec.json.encode(event) for event in later.events()], now_ms=NOW_MS)
        runner.start()
        wait_until(lambda: bool(service.registry.decisions()), seconds=120, alive=runner.is_alive)
        runner.stop()
        (decision,) = service.registry.decisions()
        assert (decision["kind"], decision["version"]) == (ROLL_BACK, "g1-1")
        assert str(decision["reason"]).startswith("rolled back from g2-2 because it does worse: -0.")
        current = service.current
        assert current is not None and current.live.version == "g1-1" and service.predecessor is None
        assert b"freshet_roll_backs_total 1.0" in metrics.text()
        found = asking.statistics.figures()
        assert found[PREDECESSOR]["all"]["ndcg_at_10"] > found[MODEL]["all"]["ndcg_at_10"]
