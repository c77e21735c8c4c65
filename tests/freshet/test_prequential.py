"""Test, then learn: every rank is recorded before anybody has seen its event, by the rules of the protocol."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from freshet.demo.prequential import LOOKUP_EVERY, MODEL_SYSTEMS, SYSTEMS, Contest, hits_of
from freshet.demo.ranking import BASELINES, Ranking, Still
from freshet.engine import Engine
from freshet.service import Service
from freshet.settings import Settings
from storage.ids import ITEM, hash_id
from stream.events import Entity, Event
from tests.freshet.sites import promote, site, train
from trainers.baselines import Baselines
from trainers.metrics import mid_ranks

ITEMS = 12
START_MS = 1_700_000_000_000


def made(count: int, *, seed: int = 0, first: int = 0) -> list[Event]:
    generator = np.random.default_rng(seed)
    return [
        Event(
            event_id=f"e{n}", user_id=f"u{generator.integers(6)}", item_id=f"i{int(ITEMS * generator.random() ** 2)}", action="like",
            ts_ms=START_MS + 1000 * n,
        )
        for n in range(first, first + count)
    ]  # fmt: skip


def contest_over(folder: Path, events: Sequence[Event]) -> Contest:
    """Counting alone, over a catalogue of ITEMS items."""
    with Engine(Settings(data=folder)) as engine:
        service = Service(engine)
        contest = Contest(service, ITEMS)
        try:
            entities = [Entity(kind="item", id=f"i{n}", ts_ms=1) for n in range(ITEMS)]
            engine.append_entities([msgspec.json.encode(entity) for entity in entities], now_ms=START_MS)
            engine.drain(now_ms=START_MS)
            play(service, contest, events)
            contest.ranks()
            return contest
        finally:
            contest.close()
            service.close()


def play(service: Service, contest: Contest, events: Sequence[Event]) -> list[bool]:
    """Ask, apply, learn: one event after the other."""
    answers = []
    for event in events:
        service.engine.append_events([msgspec.json.encode(event)], now_ms=event.ts_ms)
        answers.append(contest.ask(event))
        service.step(now_ms=event.ts_ms, records_max=1)
        contest.learn(event)
    return answers


def like(user: str, item: str | None, n: int) -> Event:
    return Event(
        event_id=f"x{n}", user_id=user, action="like" if item else "search", item_id=item, query=None if item else "q", ts_ms=START_MS + n
    )


def test_first_events_repeats_and_events_without_item_are_not_ranked(tmp_path: Path) -> None:
    events = [
        like("u1", "i1", 1),
        like("u1", "i2", 2),
        like("u1", "i1", 3),
        like("u2", "i2", 4),
        like("u1", None, 5),
        like("u1", "never heard of", 6),
    ]
    contest = contest_over(tmp_path / "data", events)
    assert contest.at == [2], "only u1's second event"
    assert (contest.asked, contest.not_ranked, len(contest.ranks())) == (6, 5, 1)
    assert len(contest.ranks()[0]) == len(SYSTEMS)


def test_a_repeat_teaches_the_baselines_nothing(tmp_path: Path) -> None:
    once = [like("u1", "i1", 1), like("u1", "i2", 2), like("u2", "i3", 4), like("u2", "i1", 5)]
    again = [*once[:2], like("u1", "i2", 3), *once[2:]]
    places = [SYSTEMS.index(name) for name in BASELINES]
    ranks = [contest_over(tmp_path / name, events).ranks()[:, places].tolist() for name, events in (("once", once), ("again", again))]
    assert ranks[0] == ranks[1]


def test_the_future_changes_no_rank_that_was_recorded(tmp_path: Path) -> None:
    past, future = made(60), made(40, seed=5, first=60)
    generator = np.random.default_rng(1)
    orders = [future, future[::-1], [future[n] for n in generator.permutation(len(future))], []]
    told = [contest_over(tmp_path / str(n), [*past, *order]) for n, order in enumerate(orders)]
    ranked = len(told[-1].ranks())
    assert ranked > 15
    assert all(contest.ranks()[:ranked].tolist() == told[-1].ranks().tolist() for contest in told)
    assert all(contest.at[:ranked] == told[-1].at for contest in told)


def test_baselines_rank_as_they_do_alone(tmp_path: Path) -> None:
    """Over every item the user has not had, in the protocol's order: ask, then learn."""
    events = made(120)
    contest = contest_over(tmp_path / "data", events)
    baselines, had, wanted = Baselines(ITEMS), dict[str, list[int]](), []
    for event in events:
        mine, row = had.setdefault(event.user_id, []), int(str(event.item_id)[1:])
        if row in mine:
            continue
        newest_first = np.array(mine[::-1], dtype=np.int64)
        if mine:
            scores = baselines.scores(newest_first)
            open_rows = [n for n in range(ITEMS) if n not in mine]
            table = np.stack([scores[name][open_rows] for name in ("pop", "recent", "rules")])
            wanted.append(mid_ranks(table, np.full(len(table), open_rows.index(row))).tolist())
        baselines.learn(newest_first, row)
        mine.append(row)
    places = [SYSTEMS.index(name) for name in BASELINES]
    assert contest.ranks()[:, places].tolist() == wanted
    assert len(wanted) > 20


def test_hits_are_ranks_up_to_ten_and_the_newest_can_be_asked_alone(tmp_path: Path) -> None:
    contest = contest_over(tmp_path / "data", made(80))
    at_ten = hits_of(np.array([[10] * len(SYSTEMS), [11] * len(SYSTEMS)]))
    assert [hit.tolist() for hit in at_ten.values()] == [[1.0, 0.0]] * len(SYSTEMS)
    hits, lately = contest.hits(), contest.lately(3)
    assert list(hits) == list(lately) == list(SYSTEMS)
    assert all(lately[name].tolist() == hits[name][-3:].tolist() for name in SYSTEMS)
    assert len(contest.lookup_ms) <= 80 // LOOKUP_EVERY
    gains = contest.gains(("popular", "frozen"), seed=0)
    assert gains["popular"].mean == float((hits["model"] - hits["popular"]).mean())
    assert gains["popular"].low <= gains["popular"].mean <= gains["popular"].high


def test_nothing_asked_has_no_hits(tmp_path: Path) -> None:
    contest = contest_over(tmp_path / "data", [])
    assert {name: len(hit) for name, hit in contest.hits().items()} == dict.fromkeys(SYSTEMS, 0)


def test_the_frozen_model_is_the_model_until_another_is_live_and_then_goes_its_own_way(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        names = [service.view.catalogue.name(row) for row in range(len(service.view.catalogue))]
        contest = Contest(service, len(names), frozen=service.current)
        now = service.view.progress.as_of.ts_ms
        events = [
            Event(event_id=f"p{n}", user_id=f"p{n % 5}", action="like", item_id=names[generator.integers(len(names))], ts_ms=now + n)
            for n in range(120)
        ]
        play(service, contest, events[:60])
        before = contest.ranks()
        model, frozen = SYSTEMS.index("model"), SYSTEMS.index("frozen")
        np.testing.assert_array_equal(before[:, model], before[:, frozen])
        train(service, tmp_path / "two", steps=20)
        promote(service, tmp_path / "two", "g2-2", generation=2)
        play(service, contest, events[60:])
        after = contest.ranks()[len(before) :]
        contest.close()
        assert (after[:, model] != after[:, frozen]).any()
        assert (after >= 1).all()
        assert (after[:, : len(MODEL_SYSTEMS)] <= len(names)).all()
        row = service.view.catalogue.row(hash_id(str(events[0].item_id), ITEM))
        assert row >= 0


def test_an_error_of_a_model_reaches_who_asked(tmp_path: Path) -> None:
    ranking = Ranking(ITEMS)

    def broken() -> list[int]:
        raise ArithmeticError("frozen")

    ranking.ask("u1", 1, models=broken)
    with pytest.raises(ArithmeticError, match="frozen"):
        ranking.ranks()
    ranking.close()


def test_what_a_frozen_model_held_when_it_was_asked_is_what_it_answers_from(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        current, still = service.current, Still()
        assert current is not None
        live = current.live
        before = still.of(live)
        assert still.of(live) is before, "nothing has changed"
        ids = service.view.catalogue.ids[:1]
        vector, _ = before.vectors.get(ids)
        live.vectors.upsert(ids, -vector, revision=live.vectors.revision_max() + 1)
        np.testing.assert_array_equal(before.vectors.get(ids)[0], vector)
        np.testing.assert_array_equal(still.of(live).vectors.get(ids)[0], -vector)
