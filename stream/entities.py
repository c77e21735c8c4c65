"""Entities: what is known of items, collections and queries, applied at least once and idempotent.

The highest (`ts_ms`, offset) wins; the comparison and the write are one commit under the partition's claim. A deletion is
content like any other: its marker stays.

    entities = EntityIngest(state, log, shape, names=names); entities.claim(); changed = entities.apply(records, now_ms=...)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from storage.catalogue import Content, decode_content, encode_content
from storage.ids import KINDS, hash_id
from storage.log import Entry, Log, Record
from storage.names import Named, Names
from storage.neighbours import node_partition
from storage.partitioned import read_rows, write_rows
from storage.state import DIRTY, NODES, Advance, Claim, State, Write
from stream.deadletters import DEAD_LETTERS, DeadLetter, encode
from stream.events import COLLECTIONS_MAX, ID_BYTES_MAX, IMAGE_BYTES_MAX, TEXT_BYTES_MAX, Entity
from stream.ingest import check_gap
from stream.shape import Shape

ENTITIES: Final = "entities"
ATTRIBUTES_MAX: Final = 64
_decoder: Final = msgspec.json.Decoder(Entity)


@dataclass(frozen=True)
class Changed:
    """One committed batch: new content by node, and what was refused."""

    contents: dict[int, Content]
    dead_letters: list[DeadLetter]


class EntityIngest:
    """Applies records of the `entities` topic, which has the log's partitions; any record may name any node."""

    def __init__(self, state: State, log: Log, shape: Shape, *, names: Names) -> None:
        self._state, self._log, self._shape, self._names = state, log, shape, names
        self._claims: dict[int, Claim] = {}
        self._marks: dict[int, int] = {}

    def claim(self) -> dict[int, int]:
        """Claim every partition and return the watermarks. Raises `Gap`."""
        topic = self._log.topic(ENTITIES)
        for partition in range(topic.partitions):
            claim = self._state.claim(ENTITIES, partition, topic.id)
            check_gap(self._log, claim)
            self._claims[partition], self._marks[partition] = claim, claim.watermark
        return dict(self._marks)

    def apply(self, records: Sequence[Record], *, now_ms: int) -> Changed:
        """Apply records in this order: 1. dead letters are appended, 2. contents, names, dirty marks and watermarks committed."""
        records = [r for r in records if r.offset >= self._marks[r.partition]]
        letters: list[DeadLetter] = []
        newest: dict[tuple[int, str], tuple[Content, Record]] = {}
        for record in records:
            try:
                content = read_entity(record)
            except ValueError as error:
                letters.append(self._letter(record, str(error)))
                continue
            key = (hash_id(content.name, KINDS[content.kind]), content.name)
            if key not in newest or _order(newest[key][0]) <= _order(content):
                newest[key] = (content, record)
        contents, names = self._named(newest, letters)
        contents, writes = self._newer(contents, records[-1].number if records else 0)
        if letters:
            self._log.append(DEAD_LETTERS, [Entry(0, encode(letter)) for letter in letters], now_ms=now_ms)
        after = {record.partition: record.offset + 1 for record in records}
        self._state.commit([Advance(self._claims[p], before=self._marks[p], after=end) for p, end in after.items()], names + writes)
        self._marks.update(after)
        return Changed(contents, letters)

    def _named(
        self, newest: dict[tuple[int, str], tuple[Content, Record]], letters: list[DeadLetter]
    ) -> tuple[dict[int, Content], list[Write]]:
        """The contents whose names are theirs, and the writes that make new names known; a clash is a dead letter."""
        contents: dict[int, Content] = {}
        writes: list[Write] = []
        for (node, _), (content, record) in newest.items():
            named = Named.of(KINDS[content.kind], pa.array([content.name], pa.string()))
            resolved = self._names.resolve(named, node_partition(named.ids, self._shape.partitions))
            if resolved.clashes or node in contents:
                letters.append(self._letter(record, f"id collision: {content.kind} {content.name!r} has the 64-bit id of another name"))
                continue
            contents[node] = content
            writes += resolved.writes
        return contents, writes

    def _newer(self, newest: dict[int, Content], mark: int) -> tuple[dict[int, Content], list[Write]]:
        if not newest:
            return {}, []
        nodes = np.array(sorted(newest), dtype=np.uint64)
        where = node_partition(nodes, self._shape.partitions)
        stored = read_rows(self._state, NODES, where, nodes)
        kept = [b is None or _order(decode_content(b)) < _order(newest[n]) for n, b in zip(nodes.tolist(), stored, strict=True)]
        nodes, where = nodes[kept], where[kept]
        if not len(nodes):
            return {}, []
        contents = {node: newest[node] for node in nodes.tolist()}
        writes = write_rows(NODES, where, nodes, [encode_content(content) for content in contents.values()])
        items = np.array([content.kind == "item" for content in contents.values()])
        if items.any():
            # Told apart from the marks of ingest, which number the appends of another topic.
            writes += write_rows(DIRTY, where[items], nodes[items], [b"e" + mark.to_bytes(8, "little")] * int(items.sum()))
        return contents, writes

    def _letter(self, record: Record, reason: str) -> DeadLetter:
        incarnation = self._claims[record.partition].incarnation
        return DeadLetter(
            topic=ENTITIES, incarnation=incarnation, partition=record.partition, offset=record.offset, index=0,
            reason=reason[:500], append_ms=record.append_ms, raw=record.value[:65_536],
        )  # fmt: skip


def read_entity(record: Record) -> Content:
    """A record's content. Raises ValueError naming what is wrong; a missing `ts_ms` is the append time."""
    try:
        entity = _decoder.decode(record.value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"unreadable entity: {error}") from error
    checks = (
        (entity.kind in ("item", "collection", "query"), f"kind is not item, collection or query: {entity.kind[:40]!r}"),
        (0 < len(entity.id.encode()) <= ID_BYTES_MAX, f"id is empty or longer than {ID_BYTES_MAX} bytes"),
        (len(entity.title) + len(entity.text) <= TEXT_BYTES_MAX, f"title and text are longer than {TEXT_BYTES_MAX}"),
        (len(entity.collections) <= COLLECTIONS_MAX, f"collections has more than {COLLECTIONS_MAX} entries"),
        (len(entity.attributes) <= ATTRIBUTES_MAX, f"attributes has more than {ATTRIBUTES_MAX} entries"),
        (entity.image is None or len(entity.image) <= IMAGE_BYTES_MAX, f"image is larger than {IMAGE_BYTES_MAX}"),
        (entity.ts_ms >= 0, "ts_ms is negative: times are UTC milliseconds since 1970"),
    )
    for fine, reason in checks:
        if not fine:
            raise ValueError(reason)
    return Content(
        kind=entity.kind, name=entity.id, title=entity.title, text=entity.text, image=entity.image, attributes=entity.attributes,
        collections=entity.collections, ts_ms=entity.ts_ms or record.append_ms, offset=record.number, deleted=entity.deleted,
    )  # fmt: skip


def _order(content: Content) -> tuple[int, int]:
    return content.ts_ms, content.offset
