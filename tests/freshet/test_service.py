"""The service: a model goes live, items born later are found, and it comes back after a restart."""

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from encoders.linear import Linear
from freshet.service import Service
from freshet.version_files import BLEND_FILE, LINEAR_FILE
from serving import sources
from serving.lookup import COUNTING
from storage.models import Damaged
from stream.events import Entity, Event
from tests.freshet.sites import NOW_MS, promote, site, train

BORN_S_MAX = 1.0


def test_a_promoted_model_answers_and_survives_a_restart(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "out")
        promote(service, tmp_path / "out", "g1-1")
        before = service.lookup.recommend("u1", k=10, now_ms=NOW_MS)
        assert (before.model, before.generation) == ("g1-1", 1)
        assert before.index is not None
        assert before.index.startswith("items-g1@")
    with site(tmp_path / "data") as service:
        after = service.lookup.recommend("u1", k=10, now_ms=NOW_MS)
    assert [item.item_id for item in after.items] == [item.item_id for item in before.items]
    assert after.model == "g1-1"
    assert after.as_of == before.as_of


def test_a_born_item_is_similar_and_recommended_within_a_second(tmp_path: Path) -> None:
    """Its content is that of an item the user would be given; nobody has ever touched it."""
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "out", steps=120)
        (tmp_path / "out" / BLEND_FILE).write_text(COUNTING.to_json())  # so small a world may be fitted without the neural source
        promote(service, tmp_path / "out", "g1-1")
        answer = service.lookup.recommend("u1", k=1, now_ms=NOW_MS)
        twin = answer.items[0].item_id
        content = service.view.catalogue.content(service.view.catalogue.row(_node(twin)))
        born = Entity(
            kind="item", id="born", title=content.title, text=content.text, attributes=content.attributes, collections=content.collections
        )
        begin = time.monotonic()
        service.engine.append_entities([msgspec.json.encode(born)], now_ms=NOW_MS)
        service.step(now_ms=NOW_MS)
        similar = [item.item_id for item in service.lookup.similar("born", k=10, now_ms=NOW_MS).items]
        given = [item.item_id for item in service.lookup.recommend("u1", k=20, now_ms=NOW_MS).items]
        assert time.monotonic() - begin < BORN_S_MAX
        assert similar
        assert "born" in given


def test_a_flip_to_a_new_generation_leaves_no_item_behind(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        train(service, tmp_path / "two")
        promote(service, tmp_path / "two", "g2-2", generation=2)
        assert service.current is not None
        ids = service.view.catalogue.ids
        _, found = service.current.live.vectors.get(ids)
        assert found.all()
        assert service.folder.generations() == [1, 2], "the one before is kept for roll-back"
        assert service.roll_back(now_ms=NOW_MS) == "g1-1"
        answer = service.lookup.recommend("u1", k=3, now_ms=NOW_MS)
        assert (answer.model, answer.generation) == ("g1-1", 1)


def test_a_deleted_item_leaves_the_index_of_both_generations(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        train(service, tmp_path / "two")
        promote(service, tmp_path / "two", "g2-2", generation=2)
        gone = service.lookup.recommend("u1", k=1, now_ms=NOW_MS).items[0].item_id
        service.engine.append_entities([msgspec.json.encode(Entity(kind="item", id=gone, ts_ms=NOW_MS, deleted=True))], now_ms=NOW_MS)
        service.step(now_ms=NOW_MS)
        while service.refresh(now_ms=NOW_MS).looked_at:
            pass
        for target in service.targets:
            assert not target.vectors.get(np.array([_node(gone)], dtype=np.uint64))[1].any()
        assert gone not in [item.item_id for item in service.lookup.recommend("u1", k=50, now_ms=NOW_MS).items]


def test_what_was_just_taken_is_not_offered_again(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        first = service.lookup.recommend("u1", k=5, now_ms=NOW_MS)
        event = Event(user_id="u1", action="like", item_id=first.items[0].item_id, ts_ms=NOW_MS)
        service.engine.append_events([msgspec.json.encode(event)], now_ms=NOW_MS)
        service.step(now_ms=NOW_MS)
        second = service.lookup.recommend("u1", k=5, now_ms=NOW_MS)
        assert first.items[0].item_id not in [item.item_id for item in second.items]
        assert second.as_of.number == first.as_of.number + 1


def test_linear_weights_go_live_and_back_with_their_version(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        for name, generation in (("one", 1), ("two", 2)):
            train(service, tmp_path / name, steps=10)
            if name == "two":
                (tmp_path / name / LINEAR_FILE).write_bytes(Linear.none().to_bytes())
            promote(service, tmp_path / name, f"g{generation}-{generation}", generation=generation)
            assert service.current is not None
            context = service.lookup.context("u1", now_ms=NOW_MS)
            assert sources.linear(context, service.current.live.linear).any() == (name == "one")
        service.roll_back(now_ms=NOW_MS)
        back = service.current
        assert back is not None and sources.linear(context, back.live.linear).any()


def test_linear_weights_with_a_flipped_byte_are_refused_and_the_live_version_stays(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one", steps=10)
        promote(service, tmp_path / "one", "g1-1")
        before = service.current
        (path,) = (tmp_path / "data" / "models").rglob(f"g1-1/{LINEAR_FILE}")
        blob = bytearray(path.read_bytes())
        blob[len(blob) // 2] ^= 1
        path.write_bytes(bytes(blob))
        with pytest.raises(Damaged, match=LINEAR_FILE):
            service.load("g1-1")
        assert service.current is before
        assert service.lookup.recommend("u1", now_ms=NOW_MS).model == "g1-1"


def test_sessions_answer_after_a_restart_as_before(tmp_path: Path) -> None:
    """The world comes out of order here and there: so it is loaded once, and what comes then comes in order."""
    users = [f"u{n}" for n in range(60)]
    with site(tmp_path / "data"):
        pass
    with site(tmp_path / "data") as service:
        names = [service.view.catalogue.name(row) for row in range(len(service.view.catalogue))]
        newest = service.view.progress.as_of.ts_ms
        for n in range(90):
            event = Event(user_id=users[n % 7], item_id=names[n * n % len(names)], action="like", ts_ms=newest + 1000 * n)
            service.engine.append_events([msgspec.json.encode(event)], now_ms=NOW_MS)
            service.step(now_ms=NOW_MS, records_max=1)
        before, sessions = [named_votes(service, user) for user in users], len(service.view.sessions)
    with site(tmp_path / "data") as service:
        assert len(service.view.sessions) == sessions > 100
        after = [named_votes(service, user) for user in users]
    for was, now in zip(before, after, strict=True):
        assert now == pytest.approx(was)
    assert sum(any(votes.values()) for votes in after) > 30


def named_votes(service: Service, user: str) -> dict[str, float]:
    context = service.lookup.context(user, now_ms=NOW_MS)
    return {service.view.catalogue.name(row): mass for row, mass in enumerate(context.votes.tolist())}


def _node(name: str) -> int:
    from storage.ids import ITEM, hash_id

    return hash_id(name, ITEM)
