"""Test, then learn: every rank is recorded before anybody has seen its event, by the rules of the protocol."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from encoders.blend import Blend
from freshet.demo.counted import BASELINES
from freshet.demo.prequential import LOOKUP_EVERY, SYSTEMS, Contest, hits_of
from freshet.demo.questions import MODEL_SYSTEMS, Asked, Question
from freshet.demo.ranking import Ranking, Sent
from freshet.engine import Engine
from freshet.service import Service
from freshet.settings import Settings
from freshet.version_files import BLEND_FILE
from serving.rows import RowIndex
from storage.catalogue import Catalogue
from storage.ids import ITEM, hash_id
from storage.vectors_memory import MemoryVectors
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
        play(service, contest, events[:LOOKUP_EVERY])  # weights learn from the last of them
        same, current = contest.ranks().copy(), service.current
        model, frozen = SYSTEMS.index("model"), SYSTEMS.index("frozen")
        np.testing.assert_array_equal(same[:, model], same[:, frozen])
        assert len(same) and current is not None and contest.frozen is not None
        assert current.live.version == contest.frozen.live.version and current.live.blend is not contest.frozen.live.blend
        play(service, contest, events[LOOKUP_EVERY:60])
        before = contest.ranks()
        train(service, tmp_path / "two", steps=20)
        # On so small a world the fitted blends of both may leave the towers out, and then they rank alike.
        (tmp_path / "two" / BLEND_FILE).write_text(Blend(("neural",), np.ones(1)).to_json())
        promote(service, tmp_path / "two", "g2-2", generation=2)
        play(service, contest, events[60:])
        after = contest.ranks()[len(before) :]
        contest.close()
        assert (after[:, model] != after[:, frozen]).any()
        assert (after >= 1).all()
        assert (after[:, : len(MODEL_SYSTEMS)] <= len(names)).all()
        row = service.view.catalogue.row(hash_id(str(events[0].item_id), ITEM))
        assert row >= 0


def test_the_process_that_ranks_is_missed_when_it_is_gone(tmp_path: Path) -> None:
    catalogue = Catalogue()
    ranking = Ranking(catalogue, RowIndex(catalogue), ITEMS)
    try:
        question = Question(
            now_ms=1, items=b"", actions=b"", ts_ms=b"", rows=b"", counts=b"", weights=b"", frozen_linear=b"", at=0, live="never sent",
            frozen=None,
        )  # fmt: skip
        ranking.ask(Asked("u1", 1, 0, question), [])
        with pytest.raises(ChildProcessError, match="ended with 1: KeyError: 'never sent'"):
            ranking.ranks()
    finally:
        ranking.close()


def test_models_answer_from_the_vectors_of_the_moment_they_were_asked(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        current = service.current
        assert current is not None
        contest = Contest(service, len(service.view.catalogue), frozen=current)
        names = [service.view.catalogue.name(row) for row in range(len(service.view.catalogue))]
        now = service.view.progress.as_of.ts_ms
        wanted = []
        try:
            for n in range(12):
                event = Event(event_id=f"p{n}", user_id="p", action="like", item_id=names[n], ts_ms=now + n)
                if n:
                    context = service.lookup.context("p", now_ms=event.ts_ms)
                    ranking = service.lookup.rank(context, current.live)
                    order = np.argsort(ranking.rows)  # the contest asks by ascending row
                    at = np.flatnonzero(ranking.rows[order] == service.view.catalogue.row(hash_id(names[n], ITEM)))
                    wanted.append(int(mid_ranks(ranking.scores[order][None], at)[0]))
                play(service, contest, [event])
                ids = service.view.catalogue.ids[n : n + 3]
                turned, _ = current.live.vectors.get(ids)
                current.live.vectors.upsert(ids, -turned, revision=current.live.vectors.revision_max() + 1)
            assert contest.ranks()[:, SYSTEMS.index("model")].tolist() == wanted
        finally:
            contest.close()


def test_only_what_changed_in_a_collection_is_sent() -> None:
    catalogue = Catalogue()
    for node in (11, 12, 13):
        catalogue.add(node, str(node))
    index, sent, vectors = RowIndex(catalogue), Sent(2), MemoryVectors(2, collection="items-g1")
    assert sent.changes(*vectors.matrix(), catalogue, index) is not None, "an empty one is to be known too"
    vectors.upsert(np.array([12, 13], np.uint64), np.array([[1, 0], [0, 1]], np.float32), revision=1)
    assert [part.tolist() for part in sent.changes(*vectors.matrix(), catalogue, index) or ()] == [[12, 13], [[1, 0], [0, 1]], []]
    assert sent.changes(*vectors.matrix(), catalogue, index) is None
    catalogue.add(14, "14")
    vectors.upsert(np.array([13, 14], np.uint64), np.array([[0, 1], [1, 1]], np.float32), revision=2)
    vectors.delete(np.array([12], np.uint64), revision=2)
    assert [part.tolist() for part in sent.changes(*vectors.matrix(), catalogue, index) or ()] == [[14], [[1, 1]], [12]]
