"""Entities in a cluster: whoever reads one writes it, unless what is there is newer. At least once, so in any order and again.

Embedded, `stream/entities.py` applies them under a claim; here many workers may meet the same item, and the comparison is
made inside the write. A record without a value is a deletion, and its key says of what: `item:ID`.

    writer = EntityWriter(state, log, shape); writer.apply(record, now_ms=now_ms)
"""

from typing import Protocol

import pyarrow as pa

from storage.catalogue import Content, encode_content
from storage.ids import KINDS, hash_id
from storage.log import Entry, Log, Record
from storage.names import Named, Names
from storage.neighbours import node_partition
from storage.state import Newest, State
from stream.deadletters import DEAD_LETTERS, DeadLetter, encode
from stream.entities import ENTITIES, read_entity
from stream.shape import Shape


class NewestState(State, Protocol):
    """A state that compares inside the write."""

    def put_newest(self, partition: int, rows: list[Newest]) -> list[bool]:
        """Write each row unless a newer or the same one is there: which were written."""


class EntityWriter:
    """One record at a time; any number of writers."""

    def __init__(self, state: NewestState, log: Log, shape: Shape) -> None:
        self._state, self._log, self._shape, self._names = state, log, shape, Names(state)

    def apply(self, record: Record, *, now_ms: int) -> bool:
        """Write what the record says; whether it was newer. What cannot be read becomes a dead letter."""
        try:
            content = read_entity(record) if record.value else deletion(record)
            node = hash_id(content.name, KINDS[content.kind])
            partition = self._named(content, node)
        except ValueError as error:
            letter = DeadLetter(
                topic=ENTITIES, incarnation=0, partition=record.partition, offset=record.offset, index=0, reason=str(error)[:500],
                append_ms=record.append_ms, raw=record.value[:65_536],
            )  # fmt: skip
            self._log.append(DEAD_LETTERS, [Entry(0, encode(letter))], now_ms=now_ms)
            return False
        mark = b"e" + record.offset.to_bytes(8, "little") if content.kind == "item" else None
        (written,) = self._state.put_newest(partition, [Newest(node, (content.ts_ms, content.offset), encode_content(content), mark)])
        return written

    def _named(self, content: Content, node: int) -> int:
        """Make the name known before its content; where the node is kept. Raises ValueError for an id that another name has."""
        named = Named.of(KINDS[content.kind], pa.array([content.name], pa.string()))
        where = node_partition(named.ids, self._shape.partitions)
        resolved = self._names.resolve(named, where)
        if resolved.clashes:
            raise ValueError(f"id collision: {content.kind} {content.name!r} has the 64-bit id of another name")
        self._state.commit([], resolved.writes)
        self._names.learn(KINDS[content.kind], resolved.fresh)
        return int(where[0])


def deletion(record: Record) -> Content:
    """What a record without a value says: its key's entity is gone since its append. Raises ValueError for a key that names none."""
    kind, colon, name = record.key.decode("utf-8", "replace").partition(":")
    if kind not in ("item", "collection", "query") or not colon or not name:
        raise ValueError(f"a deletion names no entity: its key is {record.key[:60]!r}, not KIND:ID with kind item, collection or query")
    return Content(kind=kind, name=name, ts_ms=record.append_ms, offset=record.number, deleted=True)
