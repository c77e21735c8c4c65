"""What is measured on the live stream: an event is ranked before it is applied, seldom enough, and a fall wakes the trainer."""

from pathlib import Path

import msgspec
import numpy as np

from freshet.learning.asking import MODEL, Asking
from freshet.service import Service
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
