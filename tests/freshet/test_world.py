"""The synthetic world: one seed, one stream; a best answer that is known; and all the trouble it promises."""

import dataclasses
import itertools
import struct
import zlib
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from freshet.readers.choose import open_events
from freshet.world.events import World, WorldConfig
from freshet.world.images import draw, png
from freshet.world.poison import poison
from storage.arrays import U8s
from stream.events import Entity, Event
from trainers.baselines import Baselines


@cache
def world(seed: int = 3, events: int = 4_000) -> World:
    """A small world, made once."""
    return World(WorldConfig(seed=seed, users=80, items=200, events=events, topics=6, poison=24))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    config = WorldConfig(seed=5, users=20, items=60, events=300, topics=4)
    first, again, other = World(config), World(config), World(dataclasses.replace(config, seed=6))
    assert list(first.messages()) == list(again.messages())
    assert list(first.entities()) == list(again.entities())
    assert list(first.messages()) != list(other.messages())


def test_events_count_and_every_kind_of_trouble_is_there() -> None:
    arrived = list(world().events())
    truth = world().truth
    assert len({event.event_id for event in arrived}) == world().config.events
    assert len(arrived) == world().config.events + truth.duplicates
    assert truth.duplicates > 10
    assert truth.late > 40
    times = [event.ts_ms for event in arrived]
    assert sum(later < earlier for earlier, later in itertools.pairwise(times)) > 40
    assert sum(later == earlier for earlier, later in itertools.pairwise(times)) > 40
    assert {"search", "view", "save", "purchase"} <= {event.action for event in arrived}
    assert all(event.query for event in arrived if event.action == "search")


def test_a_duplicate_is_the_same_event_again() -> None:
    seen: dict[str | None, Event] = {}
    for event in world().events():
        assert seen.setdefault(event.event_id, event) == event


def test_messages_are_the_events_with_poison_between_them() -> None:
    bodies = list(world().messages())
    assert len(bodies) == len(world().truth.arrivals) + world().truth.poison
    good = {msgspec.json.encode(event) for event in world().events()}
    assert sum(body not in good for body in bodies) == world().truth.poison
    assert len({poison(number) for number in range(12)}) == 12


def test_nobody_takes_an_item_before_its_birth_and_births_happen_during_the_stream() -> None:
    born = {entity.id: entity.ts_ms for entity in world().entities() if entity.kind == "item"}
    late_born = {item for item, ts_ms in born.items() if ts_ms > world().config.start_ms}
    assert len(late_born) == int(0.15 * 200)
    taken = [event for event in world().events() if event.item_id is not None]
    assert all(born[event.item_id or ""] <= event.ts_ms for event in taken)
    assert any(event.item_id in late_born for event in taken)


def test_the_oracle_reaches_the_known_best_and_counting_does_not() -> None:
    truth, baselines = world().truth, Baselines(world().config.items)
    histories: dict[int, list[int]] = {}
    hits = {"oracle": 0, "rules": 0, "pop": 0}
    ranked = truth.ranked()
    for number, (user, row) in enumerate(zip(truth.user.tolist(), truth.item.tolist(), strict=True)):
        history = histories.setdefault(user, [])
        if row < 0 or row in history:
            continue
        had = np.array(history, dtype=np.int64)
        if ranked[number]:
            scores = baselines.scores(had) | {"oracle": world().oracle(number)}
            for name in hits:
                scores[name][had] = -1
                hits[name] += int((scores[name] > scores[name][row]).sum() < 10)
        baselines.learn(had, row)
        history.insert(0, row)
    rates = {name: count / ranked.sum() for name, count in hits.items()}
    best = world().best_hit_rate(10)
    assert rates["oracle"] == pytest.approx(best, abs=0.03)
    assert best > rates["rules"] + 0.1 > rates["pop"] + 0.1
    assert world().best_hit_rate(1) < world().best_hit_rate(5) < best <= 1


def test_the_oracle_is_a_distribution_over_what_the_user_has_not_had() -> None:
    truth = world().truth
    for number in np.flatnonzero(truth.rank > 0)[::200].tolist():
        chances = world().oracle(number)
        had = truth.item[:number][truth.user[:number] == truth.user[number]]
        assert chances.sum() == pytest.approx(1)
        assert not chances[had[had >= 0]].any()
        assert 1 + (chances > chances[truth.item[number]]).sum() == truth.rank[number]
    with pytest.raises(ValueError, match="is a search"):
        world().oracle(int(np.flatnonzero(truth.item < 0)[0]))


def test_tastes_change_at_the_planted_moment() -> None:
    truth = world().truth
    topics = world().nature.topic[truth.item]
    moved = 0
    users = range(world().config.users)
    for user in users:
        mine = (truth.user == user) & (truth.item >= 0)
        before, after = (
            np.bincount(topics[mine & side], minlength=6) for side in (truth.ts_ms < truth.drift_ms, truth.ts_ms >= truth.drift_ms)
        )
        moved += int(before.argmax() != after.argmax())
    assert 0.3 < moved / len(users) < 0.9


def test_entities_have_titles_texts_pictures_and_memberships() -> None:
    kinds: dict[str, list[Entity]] = {}
    for entity in world().entities():
        kinds.setdefault(entity.kind, []).append(entity)
    assert set(kinds) == {"item", "collection", "query"}
    lists = {entity.id for entity in kinds["collection"]}
    assert all(entity.title and entity.text and entity.image for entity in kinds["item"])
    assert {name for entity in kinds["item"] for name in entity.collections} <= lists
    assert msgspec.json.decode(msgspec.json.encode(kinds["item"][0]), type=Entity) == kinds["item"][0]


def decode_png(body: bytes) -> U8s:
    """Pixels of a PNG whose rows have no filter; checks every checksum on the way."""
    assert body.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, {}
    while place < len(body):
        (length,) = struct.unpack(">I", body[place : place + 4])
        kind, data = body[place + 4 : place + 8], body[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack(">I", body[place + 8 + length : place + 12 + length])
        assert checksum == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_pictures_are_png_and_of_one_topic_look_alike() -> None:
    generator = np.random.default_rng(0)
    pictures = [[draw(topic, topics=6, generator=generator) for _ in range(4)] for topic in range(6)]
    np.testing.assert_array_equal(decode_png(png(pictures[0][0])), pictures[0][0])
    means = np.array([[picture.mean(axis=(0, 1)) for picture in same] for same in pictures])  # (topic, picture, 3)
    within = means.std(axis=1).mean()
    assert means.mean(axis=1).std(axis=0).mean() > 2 * within


def test_what_is_written_is_what_the_readers_read(tmp_path: Path) -> None:
    source = open_events(world().write_csv(tmp_path / "out"))
    assert source.name == "headed CSV"
    rows = list(source)
    wanted = [event for event in world().events() if event.item_id is not None]
    assert [row.event for row in rows] == wanted
    assert source.rows == len(wanted)
    assert list(source.entities()) == list(world().entities())
    assert set(source.catalogue()) == {f"i{row}" for row in range(world().config.items)}


@pytest.mark.parametrize("users", [1, 3])
def test_a_world_that_runs_out_of_items_repeats(users: int) -> None:
    tiny = World(WorldConfig(users=users, items=8, events=200, topics=1, collections=0, births_share=0.5))
    assert len(list(tiny.events())) >= 200
    assert tiny.best_hit_rate(20) == pytest.approx(1) or not tiny.truth.ranked().any()


@pytest.mark.parametrize(
    "wrong", [{"users": 0}, {"events": 0}, {"items": 3}, {"topics": 13}, {"late_share": 1.5}, {"drift_at": -0.1}, {"poison": -1}]
)
def test_impossible_worlds_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorldConfig(**wrong)  # type: ignore[arg-type] # on purpose


@pytest.mark.parametrize("k", [0, 21])
def test_the_best_hit_rate_is_known_up_to_twenty(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        world().best_hit_rate(k)
