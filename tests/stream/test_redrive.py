"""Redrive: what is repaired goes where it belongs, under an id that makes doing it twice harmless."""

from typing import Any

import msgspec
import pytest

from stream.deadletters import DeadLetter
from stream.entities import ENTITIES
from stream.ingest import EVENTS
from stream.redrive import repaired
from stream.routing import partition_of
from stream.shape import Shape
from stream.wire import decode_event

NOW_MS = 1_800_000_000_000
SHAPE = Shape(partitions=5)
GOOD = {"user_id": "u1", "action": "view", "item_id": "i", "ts_ms": NOW_MS}


def letter(raw: bytes | dict[str, Any], *, reason: str = "misrouted: x", topic: str = EVENTS) -> DeadLetter:
    body = raw if isinstance(raw, bytes) else msgspec.json.encode(raw)
    return DeadLetter(topic=topic, incarnation=2, partition=3, offset=17, index=4, reason=reason, append_ms=NOW_MS - 5, raw=body)


def test_an_event_without_an_id_gets_its_origins_and_goes_to_its_users_partition() -> None:
    entry = repaired(letter(GOOD), {}, SHAPE, now_ms=NOW_MS)
    assert decode_event(entry.value).event_id == "events:2:3:17:4"
    assert (entry.partition, entry.key) == (partition_of("u1", 5), b"u1")


def test_an_event_keeps_its_own_id() -> None:
    entry = repaired(letter(GOOD | {"event_id": "e9"}), {}, SHAPE, now_ms=NOW_MS)
    assert decode_event(entry.value).event_id == "e9"


def test_fields_are_set_and_taken_away() -> None:
    bad = GOOD | {"action": "teleport", "surface": "x" * 10_000, "user_id": "other"}
    entry = repaired(letter(bad), {"action": "like", "surface": None, "user_id": "u2"}, SHAPE, now_ms=NOW_MS)
    event = decode_event(entry.value)
    assert (event.action, event.surface, event.user_id, entry.key) == ("like", None, "u2", b"u2")


def test_the_row_of_a_pack_is_read_as_the_event_it_was() -> None:
    entry = repaired(letter(GOOD | {"context": '{"page":2}', "shown": ["a"]}), {}, SHAPE, now_ms=NOW_MS)
    assert decode_event(entry.value).context == {"page": 2}


@pytest.mark.parametrize(
    ("raw", "edits", "words"),
    [
        (msgspec.json.encode(GOOD | {"action": "teleport"}), {}, "refused again: unknown action"),
        (msgspec.json.encode(GOOD | {"ts_ms": NOW_MS * 2}), {}, "refused again: ts_ms"),
        (b"{", {}, "no JSON"),
        (b"[]", {}, "no object"),
        (b"{" * 50_000, {}, "no JSON"),
        (b"\xff", {"user_id": "u"}, "action"),
        (b'{"user_id":7}', {}, "str"),
    ],
)
def test_what_would_be_refused_again_is_not_sent(raw: bytes, edits: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        repaired(letter(raw), edits, SHAPE, now_ms=NOW_MS)


def test_a_record_nobody_can_read_may_be_given_whole() -> None:
    assert decode_event(repaired(letter(b"\xff"), GOOD, SHAPE, now_ms=NOW_MS).value).user_id == "u1"


def test_a_pack_nobody_can_read_is_its_producers() -> None:
    with pytest.raises(ValueError, match="its producer"):
        repaired(letter(b"ARROW1", reason="unreadable pack: x"), GOOD, SHAPE, now_ms=NOW_MS)


def test_an_entity_is_as_new_as_it_was_when_it_came() -> None:
    entry = repaired(letter({"kind": "planet", "id": "i"}, topic=ENTITIES), {"kind": "item"}, SHAPE, now_ms=NOW_MS)
    assert msgspec.json.decode(entry.value) == {"kind": "item", "id": "i", "ts_ms": NOW_MS - 5}
    assert (entry.key, entry.partition) == (b"item:i", partition_of("item:i", 5))
    with pytest.raises(ValueError, match="kind"):
        repaired(letter({"kind": "planet", "id": "i"}, topic=ENTITIES), {}, SHAPE, now_ms=NOW_MS)
