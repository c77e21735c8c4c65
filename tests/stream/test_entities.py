"""Entities: the newest content wins in any order of arrival, and what is refused costs a dead letter and nothing else."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import storage.names
import stream.entities
from storage.catalogue import Catalogue, Content, decode_content
from storage.ids import ITEM, KINDS, hash_id
from storage.log import JSON, VALUE_BYTES_MAX, Entry, Log, Position, Record, Topic
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state import DIRTY, NAMES, NODES, Fenced, Gap, Write
from storage.state_memory import MemoryState
from stream.entities import ENTITIES, Changed, EntityIngest
from stream.events import Entity
from stream.shape import Shape
from tests.stream.event_logs import letters

NOW_MS = 1_700_000_000_000
THREE = Shape(partitions=3)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    with LmdbLog(tmp_path / "log", partitions=3, log_bytes_max=1 << 28) as log:
        yield log


class StillLog:
    """The identity of a log whose records the test makes itself."""

    def topic(self, name: str) -> Topic:
        return Topic(name, "still", 3)

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        raise AssertionError("nothing here is refused")

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        raise AssertionError("records come from the test")

    def first_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return 1 << 40


def claimed(log: Log, state: MemoryState, shape: Shape = THREE) -> EntityIngest:
    entities = EntityIngest(state, log, shape, names=Names(state))
    entities.claim()
    return entities


def records_of(log: LmdbLog, bodies: Sequence[Entity | bytes], *, partition: int = 0) -> list[Record]:
    values = [body if isinstance(body, bytes) else msgspec.json.encode(body) for body in bodies]
    at = log.append(ENTITIES, [Entry(partition, value) for value in values], now_ms=NOW_MS)
    return log.read(ENTITIES, partition, at[0].offset, records_max=len(at))


def applied(log: LmdbLog, state: MemoryState, *bodies: Entity | bytes) -> Changed:
    return claimed(log, state).apply(records_of(log, bodies), now_ms=NOW_MS)


def content_of(state: MemoryState, name: str, kind: str = "item") -> Content | None:
    node = hash_id(name, KINDS[kind])
    (blob,) = state.read(NODES, node % 3, np.array([node], dtype=np.uint64))
    return decode_content(blob) if blob else None


def dirty(state: MemoryState) -> set[int]:
    return {node for p in range(3) for node, _ in state.scan(DIRTY, p)}


def everything(state: MemoryState) -> dict[str, dict[int, bytes]]:
    return {f"{table}/{p}": dict(state.scan(table, p)) for table in (NODES, NAMES) for p in range(3)}


def item(title: str, ts_ms: int = 1, name: str = "m1", **more: object) -> Entity:
    return msgspec.convert({"kind": "item", "id": name, "title": title, "ts_ms": ts_ms, **more}, Entity)


@given(times=st.lists(st.tuples(st.sampled_from(["m1", "m2"]), st.integers(0, 3)), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_the_highest_time_then_offset_wins_in_any_order_of_arrival(times: list[tuple[str, int]], seed: int) -> None:
    """A message's number is fixed by the log; batches and partitions decide when it arrives."""
    rng, state = random.Random(seed), MemoryState()
    entities = claimed(StillLog(), state)
    messages = [
        Record(n, 0, 0, NOW_MS, JSON, msgspec.json.encode(item(f"title {n}", ts, name, deleted=n % 3 == 0)))
        for n, (name, ts) in enumerate(times)
    ]
    rng.shuffle(messages)
    arrived = [message._replace(offset=n) for n, message in enumerate(messages)]
    while arrived:
        size = rng.randint(1, 4)
        entities.apply(arrived[:size], now_ms=NOW_MS)
        arrived = arrived[size:]
    for name in {name for name, _ in times}:
        ts_ms, newest = max((ts or NOW_MS, n) for n, (other, ts) in enumerate(times) if other == name)
        content = content_of(state, name)
        assert content is not None
        assert (content.title, content.ts_ms, content.deleted) == (f"title {newest}", ts_ms, newest % 3 == 0)


def test_applied_twice_is_once(log: LmdbLog) -> None:
    once, twice = MemoryState(), MemoryState()
    records = records_of(log, [item("a", 5), item("b", 5), item("c", 4), Entity(kind="query", id="q", ts_ms=1), b"{"])
    claimed(log, once).apply(records, now_ms=NOW_MS)
    entities = claimed(log, twice)
    entities.apply(records[:3], now_ms=NOW_MS)
    entities.apply(records, now_ms=NOW_MS)
    before = everything(twice)
    assert before == everything(once)
    sent = len(letters(log))
    assert entities.apply(records, now_ms=NOW_MS) == Changed({}, [])
    assert everything(twice) == before
    assert len(letters(log)) == sent, "below the watermark nothing is looked at"
    content = content_of(twice, "m1")
    assert content is not None and content.title == "b"


def test_the_same_message_again_changes_nothing_and_marks_nothing(log: LmdbLog) -> None:
    state = MemoryState()
    applied(log, state, item("a", 5))
    state.commit([], [Write(DIRTY, p, np.array(sorted(dirty(state)), np.uint64), [None]) for p in range(3)])
    assert applied(log, state, item("older", 4)) == Changed({}, [])
    assert not dirty(state)
    assert [content.title for content in applied(log, state, item("resent", 5)).contents.values()] == ["resent"], (
        "a later append wins a tie"
    )


def test_a_deletion_stays_and_nothing_older_revives_it(log: LmdbLog) -> None:
    state = MemoryState()
    applied(log, state, item("a", 5))
    applied(log, state, item("", 9, deleted=True))
    applied(log, state, item("late", 8))
    content = content_of(state, "m1")
    assert content is not None and (content.deleted, content.title, content.ts_ms) == (True, "", 9)
    applied(log, state, item("back", 10))
    content = content_of(state, "m1")
    assert content is not None and (content.deleted, content.title) == (False, "back")


def test_a_missing_time_is_the_time_of_the_append(log: LmdbLog) -> None:
    state = MemoryState()
    applied(log, state, b'{"kind":"item","id":"m1","title":"a"}')
    content = content_of(state, "m1")
    assert content is not None and content.ts_ms == NOW_MS


BAD = {
    "unreadable entity": (
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b'{"kind":"item"}',
        b'{"kind":"item","id":5}',
        b'{"kind":"item","id":"x","ts_ms":1.5}',
        b'{"kind":"item","id":"x","image":[0.5,NaN]}',
        b'{"kind":"item","id":"x","image":[1e999]}',
        b'{"kind":"item","id":"x","image":[null]}',
        b'{"kind":"item","id":"x","attributes":{"price":NaN}}',
    ),
    "kind is not item, collection or query": (b'{"kind":"user","id":"u"}', b'{"kind":"","id":"x"}'),
    "id is empty or longer than 256 bytes": (Entity(kind="item", id=""), Entity(kind="item", id="é" * 129)),
    "title and text are longer than 16384": (item("t" * 16_384, text="x"),),
    "collections has more than 256 entries": (item("t", collections=["c"] * 257),),
    "attributes has more than 64 entries": (item("t", attributes={str(n): n for n in range(65)}),),
    "image is larger than 262144": (item("t", image=b"\0" * 262_145),),
    "ts_ms is negative": (item("t", -1),),
}
TOO_DEEP = b'{"kind":"item","id":"x","attributes":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("kind", "body"), [(kind, body) for kind, bodies in BAD.items() for body in bodies] + [("unreadable entity", TOO_DEEP)]
)
def test_a_bad_entity_costs_one_dead_letter_and_the_rest_goes_on(kind: str, body: Entity | bytes, log: LmdbLog) -> None:
    state = MemoryState()
    changed = applied(log, state, item("first", name="a"), body, item("last", name="b"))
    raw = (body if isinstance(body, bytes) else msgspec.json.encode(body))[:65_536]
    (letter,) = changed.dead_letters
    assert letter == letters(log)[0]
    assert (letter.kind, letter.origin, letter.raw) == (kind, (ENTITIES, 0, 0, 1, 0), raw)
    assert len(letter.reason) <= 500
    assert {content.title for content in changed.contents.values()} == {"first", "last"}
    assert state.watermarks(ENTITIES) == {0: 3, 1: 0, 2: 0}


@pytest.mark.parametrize(
    "entity", [item("t" * 16_384), item("t", image=b"\0" * 262_144), item("é", name="é" * 128), item("t", collections=["c"] * 256)]
)
def test_what_is_just_within_the_bounds_is_taken(entity: Entity, log: LmdbLog) -> None:
    assert len(msgspec.json.encode(entity)) <= VALUE_BYTES_MAX
    changed = applied(log, MemoryState(), entity)
    assert (len(changed.contents), changed.dead_letters) == (1, [])


def test_a_lone_surrogate_is_no_reason_to_die(log: LmdbLog) -> None:
    changed = applied(log, MemoryState(), b'{"kind":"item","id":"\\ud800"}', item("a"))
    assert len(changed.contents) + len(changed.dead_letters) == 2


def test_an_id_that_belongs_to_another_name_is_a_dead_letter(log: LmdbLog) -> None:
    state, node = MemoryState(), hash_id("m1", ITEM)
    state.commit([], [Write(NAMES, node % 3, np.array([node], dtype=np.uint64), [bytes([ITEM]) + b"somebody else"])])
    changed = applied(log, state, item("mine"), item("fine", name="m2"))
    assert [letter.kind for letter in changed.dead_letters] == ["id collision"]
    assert [content.name for content in changed.contents.values()] == ["m2"]
    assert content_of(state, "m1") is None


def test_two_new_names_of_one_id_in_one_batch_are_told_apart(log: LmdbLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.entities, "hash_id", lambda name, kind: 7)
    monkeypatch.setattr(storage.names, "hash_laid", lambda laid, kind: np.full(len(laid.ends) - 1, 7, dtype=np.uint64))
    changed = applied(log, MemoryState(), item("a", 1, "one"), item("b", 9, "two"), item("c", 2, "one"))
    assert [(letter.kind, letter.offset) for letter in changed.dead_letters] == [("id collision", 1)]
    assert [(content.name, content.title) for content in changed.contents.values()] == [("one", "c")]


def test_items_are_marked_dirty_and_collections_and_queries_are_not(log: LmdbLog) -> None:
    state = MemoryState()
    entities = [Entity(kind=kind, id="same name", ts_ms=1) for kind in ("item", "collection", "query")]
    changed = applied(log, state, *entities)
    assert len(changed.contents) == 3, "kinds do not share ids"
    assert dirty(state) == {hash_id("same name", ITEM)}


def test_a_mark_of_an_entity_is_never_the_mark_of_an_event(log: LmdbLog) -> None:
    state = MemoryState()
    applied(log, state, item("a"))
    ((_, mark),) = [row for p in range(3) for row in state.scan(DIRTY, p)]
    assert len(mark) != 8, "ingest's are eight bytes"


def test_the_catalogue_follows_and_loads_the_same(log: LmdbLog) -> None:
    state, catalogue = MemoryState(), Catalogue()
    bodies = [item("a", 1), item("b", 1, "m2", deleted=True), item("c", 2), Entity(kind="query", id="q", ts_ms=1)]
    for body in bodies:
        for node, content in applied(log, state, body).contents.items():
            if content.kind == "item":
                catalogue.put(node, content)
    loaded = Catalogue()
    loaded.load(state, Names(state), 3)
    for each in (catalogue, loaded):
        rows = {each.name(row): (each.content(row).title, bool(each.deleted[row])) for row in range(len(each))}
        assert rows == {"m1": ("c", False), "m2": ("b", True)}


def test_every_partition_of_the_topic_is_read_and_any_may_name_any_node(log: LmdbLog) -> None:
    state = MemoryState()
    entities = claimed(log, state)
    records = [record for p in range(3) for record in records_of(log, [item(f"from {p}", 5)], partition=p)]
    entities.apply(records, now_ms=NOW_MS)
    assert state.watermarks(ENTITIES) == {0: 1, 1: 1, 2: 1}
    content = content_of(state, "m1")
    assert content is not None and content.title == "from 2", "of equal times the later append"


def test_a_twin_is_fenced_and_a_gap_is_named(log: LmdbLog) -> None:
    state = MemoryState()
    paused = claimed(log, state)
    claimed(log, state)
    with pytest.raises(Fenced):
        paused.apply(records_of(log, [item("a")]), now_ms=NOW_MS)
    assert content_of(state, "m1") is None
    log.truncate(ENTITIES, 1)
    with pytest.raises(Gap, match="partition 0 of 'entities'"):
        claimed(log, state)


def test_nothing_is_nothing(log: LmdbLog) -> None:
    assert claimed(log, MemoryState()).apply([], now_ms=NOW_MS) == Changed({}, [])
