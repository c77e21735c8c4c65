"""Ingest: one batch, one commit; no silent gap; claims and fences; what a committed batch says of itself.

Invariants 1 and 2 of the design; `test_crash.py` kills the process for the first.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from storage.counts import Counts
from storage.ids import ITEM, QUERY, USER, hash_id, hash_ids
from storage.log import PACK, Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.neighbours import node_partition
from storage.state import DIRTY, NAMES, TABLES, TALLIES, Advance, Fenced, Gap, WatermarkMoved, Write
from storage.state_memory import MemoryState
from stream.edges import EDGES
from stream.events import Event
from stream.ingest import EVENTS, Ingest
from stream.refresh import marked_ms
from stream.replay import digest
from stream.shape import Shape
from stream.wire import encode_event, encode_pack
from tests.stream.event_logs import APPEND_MS, SMALL, THREE, expected, fill, ingest_all, letters, make_messages, stored, totals, wanted
from tests.stream.oracle import Oracle

WAYS_OUT = r"Rebuild from the archive \(freshet rebuild\), or accept the loss on record \(freshet gap accept\)"
EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=1000)
BODY = encode_event(EVENT)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        yield log


def ingest_of(log: LmdbLog, state: MemoryState, shape: Shape = SMALL) -> Ingest:
    ingest = Ingest(state, log, shape, names=Names(state))
    ingest.claim()
    return ingest


def events_of(state: MemoryState, item: str = "i") -> int:
    return int(Counts(state, 1, 1000).read(np.array([hash_id(item, ITEM)], dtype=np.uint64), as_of_ms=0).events[0])


def test_no_silent_gap_when_the_log_begins_above_the_watermark(log: LmdbLog) -> None:
    state = MemoryState()
    log.append(EVENTS, [Entry(0, BODY)] * 5, now_ms=APPEND_MS)
    ingest_of(log, state).apply(log.read(EVENTS, 0, 0, records_max=2), now_ms=APPEND_MS)
    log.truncate(EVENTS, 2)
    assert ingest_of(log, state).claim() == {0: 2}, "everything above the watermark is there"
    log.truncate(EVENTS, 4)
    with pytest.raises(Gap, match=rf"partition 0 of 'events' is applied up to offset 2, the log holds 4\.\.5\. {WAYS_OUT}"):
        ingest_of(log, state)
    state.accept(EVENTS, 0, log.topic(EVENTS).id, 4)
    assert totals(ingest_all(log, state, SMALL)) == {"accepted": 3}


def test_no_silent_gap_when_the_log_ends_below_the_watermark(log: LmdbLog) -> None:
    state = MemoryState()
    log.append(EVENTS, [Entry(0, BODY)], now_ms=APPEND_MS)
    state.accept(EVENTS, 0, log.topic(EVENTS).id, 7)
    with pytest.raises(Gap, match=rf"applied up to offset 7, the log holds 0\.\.1\. {WAYS_OUT}"):
        ingest_of(log, state)


def test_no_silent_gap_when_the_topic_was_made_anew(tmp_path: Path) -> None:
    state = MemoryState()
    ids = []
    for life in range(2):
        with LmdbLog(tmp_path / "log", log_bytes_max=1 << 24) as log:
            log.append(EVENTS, [Entry(0, BODY), Entry(0, b"?")], now_ms=APPEND_MS)
            ids.append(log.topic(EVENTS).id)
            if life:
                with pytest.raises(Gap, match=rf"was read from topic id {ids[0]}, the log now has {ids[1]}\. {WAYS_OUT}"):
                    ingest_of(log, state)
                state.accept(EVENTS, 0, ids[1], 0)
            ingest = ingest_all(log, state, SMALL)
            assert totals(ingest) == {"accepted": 1 + life, "dead": 1 + life}
            assert [letter.incarnation for letter in letters(log)] == [life]
            assert state.claim(EVENTS, 0, ids[life]).incarnation == life
        shutil.rmtree(tmp_path / "log")
    assert events_of(state) == 2, "an event without an id is another one in another incarnation"


def test_each_accepted_topic_gets_the_next_incarnation(log: LmdbLog) -> None:
    state = MemoryState()
    assert state.claim(EVENTS, 0, "one").incarnation == 0
    for incarnation, topic_id in ((0, "one"), (1, "two"), (2, "three"), (3, "two")):
        state.accept(EVENTS, 0, topic_id, 5)
        claim = state.claim(EVENTS, 0, topic_id)
        assert (claim.incarnation, claim.watermark) == (incarnation, 5)


def test_the_watermark_is_the_position_and_skipped_offsets_are_no_gap(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, BODY)] * 6, now_ms=APPEND_MS)
    state = MemoryState()
    ingest = ingest_of(log, state)
    records = log.read(EVENTS, 0, 0)
    ingest.apply([records[0], records[3]], now_ms=APPEND_MS)
    assert state.watermarks(EVENTS) == {0: 4}
    ingest.apply(records, now_ms=APPEND_MS)
    assert state.watermarks(EVENTS) == {0: 6} and events_of(state) == 4


def test_effect_once_records_below_the_watermark_are_dropped(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, BODY)] * 3, now_ms=APPEND_MS)
    state = MemoryState()
    ingest = ingest_of(log, state)
    records = log.read(EVENTS, 0, 0)
    for end in (2, 3, 3):
        applied = ingest.apply(records[:end], now_ms=APPEND_MS)
    assert (applied.records, applied.events, events_of(state)) == (0, 0, 3)
    assert totals(ingest) == {"accepted": 3}


def test_effect_once_a_paused_twin_is_fenced_and_goes_on_after_it_claims_again(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, BODY)] * 4, now_ms=APPEND_MS)
    state = MemoryState()
    paused, other = ingest_of(log, state), ingest_of(log, state)
    records = log.read(EVENTS, 0, 0)
    with pytest.raises(Fenced, match="epoch 2, this claim is of 1"):
        paused.apply(records, now_ms=APPEND_MS)
    assert not any(list(state.scan(table, 0)) for table in TABLES), "a refused commit writes nothing"
    other.apply(records[:2], now_ms=APPEND_MS)
    assert paused.claim() == {0: 2}
    paused.apply(records, now_ms=APPEND_MS)
    assert events_of(state) == 4 and totals(paused) == {"accepted": 4}
    with pytest.raises(Fenced):
        other.apply(records, now_ms=APPEND_MS)


def test_effect_once_a_state_that_went_back_gets_no_edges_made_over_what_it_lost(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, encode_event(msgspec.structs.replace(EVENT, item_id=f"i{n}", action="click"))) for n in range(6)],
               now_ms=APPEND_MS)  # fmt: skip
    before, state = MemoryState(), MemoryState()
    for either in (before, state):
        Ingest(either, log, SMALL, names=Names(either), replaying=True, edges_apart=True).claim()
    ingest = Ingest(state, log, SMALL, names=Names(state), edges_apart=True)
    ingest.claim()
    records = log.read(EVENTS, 0, 0)
    ingest.apply(records[:3], now_ms=APPEND_MS)
    sent = log.end_offset(EDGES, 0)
    assert sent > 0
    state.__dict__.update(before.__dict__)
    state.claim(EVENTS, 0, log.topic(EVENTS).id)  # as many as before, so that only the watermark tells
    with pytest.raises(WatermarkMoved, match="stands at 0, the batch began at 3"):
        ingest.apply(records[3:], now_ms=APPEND_MS)
    assert log.end_offset(EDGES, 0) == sent, "they would make those in between look old"


def test_effect_once_a_batch_from_the_old_topic_is_fenced_after_the_new_one_is_accepted(log: LmdbLog) -> None:
    state = MemoryState()
    log.append(EVENTS, [Entry(0, BODY)], now_ms=APPEND_MS)
    old = ingest_of(log, state)
    state.accept(EVENTS, 0, "another topic", 0)
    with pytest.raises(Fenced):
        old.apply(log.read(EVENTS, 0, 0), now_ms=APPEND_MS)


@pytest.mark.parametrize("point", ["before dead letters", "after dead letters", "before commit", "after commit"])
def test_effect_once_when_a_batch_fails_at_a_named_point_and_is_tried_again(point: str, log: LmdbLog) -> None:
    """In one process: an exception instead of a death, and the same object, or a new one, goes on."""
    messages = make_messages(random.Random(2), SMALL, count=60)
    oracle = expected(SMALL, messages, fill(log, messages))
    state = MemoryState()
    left = [3]

    def fault(reached: str) -> None:
        left[0] -= reached == point
        if left[0] == 0:
            raise InterruptedError(point)

    with pytest.raises(InterruptedError):
        ingest_all(log, state, SMALL, batch=12, fault=fault)
    ingest = ingest_all(log, state, SMALL, batch=12)
    refused = sum(message.refused for message in messages)
    assert totals(ingest) == {"accepted": oracle.accepted[0], "duplicates": oracle.duplicates[0], "dead": refused}
    assert stored(state) == wanted(oracle)
    assert len({letter.origin for letter in letters(log)}) == refused


class Counting(MemoryState):
    """A state that counts its commits."""

    commits = 0

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        self.commits += 1
        super().commit(advances, writes)


def test_effect_once_a_batch_is_one_commit_whatever_is_in_it(tmp_path: Path) -> None:
    messages = make_messages(random.Random(9), THREE, count=90)
    with LmdbLog(tmp_path, partitions=3, log_bytes_max=1 << 24) as log:
        fill(log, messages)
        state = Counting()
        ingest = Ingest(state, log, THREE, names=Names(state))
        ingest.claim()
        for n in range(3):
            ingest.apply(log.read_ordered(EVENTS, 30 * n, records_max=30), now_ms=APPEND_MS)
            assert state.commits == n + 1
        assert letters(log) and sum(state.watermarks(EVENTS).values()) == 90


def test_tallies_survive_a_restart_and_count_by_partition(tmp_path: Path) -> None:
    messages = make_messages(random.Random(6), THREE, count=120)
    with LmdbLog(tmp_path, partitions=3, log_bytes_max=1 << 24) as log:
        oracle = expected(THREE, messages, fill(log, messages))
        state = MemoryState()
        first = ingest_all(log, state, THREE, batch=50)
        again = Ingest(state, log, THREE, names=Names(state))
        again.claim()
        assert again.tallies == first.tallies
        for partition, tally in again.tallies.items():
            assert (tally.accepted, tally.duplicates) == (oracle.accepted[partition], oracle.duplicates[partition])
            dead = [letter for letter in letters(log) if letter.partition == partition]
            assert sum(tally.dead_letters.values()) == len(dead) and set(tally.dead_letters) == {letter.kind for letter in dead}
        assert state.watermarks(EVENTS) == {partition: log.end_offset(EVENTS, partition) for partition in range(3)}


def test_partitions_hold_their_users_and_nodes_and_nothing_else(tmp_path: Path) -> None:
    messages = make_messages(random.Random(7), THREE, count=150)
    with LmdbLog(tmp_path, partitions=3, log_bytes_max=1 << 24) as log:
        oracle = expected(THREE, messages, fill(log, messages))
        state = MemoryState()
        ingest_all(log, state, THREE)
        names = Names(state)
        for partition in range(3):
            users = dict(names.scan(USER, partition))
            assert set(users) == {user for p, user in oracle.people if p == partition}
            assert all(oracle.partition(name) == partition for name in users.values())
            for kind in (ITEM, QUERY):
                nodes = dict(names.scan(kind, partition))
                assert all(hash_id(name, kind) == node for node, name in nodes.items())
                assert set(node_partition(np.array(list(nodes), dtype=np.uint64), 3).tolist()) <= {partition}
        assert {name for p in range(3) for _, name in names.scan(USER, p)} >= {"user 0"}


def test_a_batch_says_what_it_changed_and_what_is_new(log: LmdbLog) -> None:
    rows = [
        EVENT,
        msgspec.structs.replace(EVENT, item_id="j", ts_ms=3000),
        msgspec.structs.replace(EVENT, action="search", query="q", item_id=None),
    ]
    again = msgspec.structs.replace(EVENT, event_id="twice")
    log.append(EVENTS, [Entry(0, encode_pack(rows), PACK), *[Entry(0, encode_event(again))] * 2], now_ms=APPEND_MS)
    state = MemoryState()
    ingest = ingest_of(log, state, Shape())
    first, second, third = (ingest.apply([record], now_ms=APPEND_MS) for record in log.read(EVENTS, 0, 0))
    assert (first.records, first.events, first.duplicates, first.ts_ms) == (1, 3, 0, 3000)
    assert first.born == {"i": hash_id("i", ITEM), "j": hash_id("j", ITEM)} and second.born == {}
    assert dict(zip(first.items.tolist(), first.counts[:, 0].tolist(), strict=True)) == {hash_id("i", ITEM): 1, hash_id("j", ITEM): 1}
    assert second.counts[:, 0].tolist() == [2]
    assert (third.events, third.duplicates, third.counts[:, 0].tolist()) == (1, 1, [2])
    assert set(dict(state.scan(DIRTY, 0))) == set(hash_ids(["i", "j"], ITEM).tolist())
    marks = {(int.from_bytes(mark[:8], "little"), marked_ms(mark)) for _, mark in state.scan(DIRTY, 0)}
    assert marks == {(1, APPEND_MS)}, "the last record that touched them, and when it was appended"


def test_dirty_marks_name_items_not_collections(log: LmdbLog) -> None:
    body = encode_event(msgspec.structs.replace(EVENT, collection_id="board", source_item_id="j"))
    log.append(EVENTS, [Entry(0, body)], now_ms=APPEND_MS)
    state = MemoryState()
    ingest_all(log, state, SMALL)
    assert set(dict(state.scan(DIRTY, 0))) == set(hash_ids(["i", "j"], ITEM).tolist())


def test_a_batch_of_searches_alone_is_applied(log: LmdbLog) -> None:
    body = encode_event(Event(user_id="u", action="search", query="q", ts_ms=5))
    log.append(EVENTS, [Entry(0, body)], now_ms=APPEND_MS)
    state = MemoryState()
    assert totals(ingest_all(log, state, SMALL)) == {"accepted": 1}
    assert dict(state.scan(NAMES, 0)) == {hash_id("u", USER): bytes([USER]) + b"u", hash_id("q", QUERY): bytes([QUERY]) + b"q"}
    assert not list(state.scan("counts", 0)) and len(list(state.scan(TALLIES, 0))) == 1


def test_an_empty_batch_changes_nothing(log: LmdbLog) -> None:
    state = MemoryState()
    ingest = ingest_of(log, state)
    before = digest(state, 0, TABLES)
    applied = ingest.apply([], now_ms=APPEND_MS)
    assert (applied.records, applied.events, applied.dead_letters, applied.ts_ms) == (0, 0, [], 0)
    assert digest(state, 0, TABLES) == before and state.watermarks(EVENTS) == {0: 0}


def test_a_replay_sends_no_dead_letters_and_counts_them(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, BODY), Entry(0, b"?")], now_ms=APPEND_MS)
    state = MemoryState()
    ingest = Ingest(state, log, SMALL, names=Names(state), replaying=True)
    ingest.claim()
    assert len(ingest.apply(log.read(EVENTS, 0, 0), now_ms=APPEND_MS).dead_letters) == 1
    assert letters(log) == [] and totals(ingest) == {"accepted": 1, "dead": 1}


def test_the_oracle_knows_events_by_origin_when_they_have_no_id(log: LmdbLog) -> None:
    log.append(EVENTS, [Entry(0, encode_pack([EVENT, EVENT]), PACK), Entry(0, BODY)], now_ms=APPEND_MS)
    state, oracle = MemoryState(), Oracle(SMALL)
    for offset, index in ((0, 0), (0, 1), (1, 0)):
        assert oracle.apply(EVENT, f"{EVENTS}:0:0:{offset}:{index}")
    assert totals(ingest_all(log, state, SMALL)) == {"accepted": 3} and stored(state) == wanted(oracle)
