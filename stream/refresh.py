"""Refresh: items whose content or neighbourhood changed enough are embedded again and upserted, newer over older.

The dirty mark is written by whoever changed the item, in the same commit; it is cleared after the upsert, and only if the
item has not changed again meanwhile. "Changed enough" is new content, another generation, or an L1 distance above
`distance_min` between its normalised neighbour weights now and when it was embedded.

    refresher = Refresher(state, neighbours, shape, settings); done = refresher.step([target], now_ms=now_ms)
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.arrays import Bools, F32s, F64s, U64s
from storage.catalogue import Catalogue
from storage.neighbours import CO_ENGAGED, Neighbours, node_partition
from storage.partitioned import write_rows
from storage.state import DIRTY, EMBEDDED, State, Write
from storage.vectors import Vectors
from stream.shape import Shape

COMPARED_MAX: Final = 64
"""Of each list the heaviest so many neighbours are compared; the tower reads fewer."""
_HEAD_BYTES: Final = 24
_TIMED_BYTES: Final = 16


@dataclass(frozen=True)
class Target:
    """Where embeddings go: a generation's vectors and its encoder. `embed(ids (B,), now_ms)` gives unit rows (B, D).

    A `kept` generation answers nobody and waits for a roll-back: it gets births, deletions and new content, not every drift.
    """

    generation: int
    vectors: Vectors
    embed: Callable[[U64s, int], F32s]
    kept: bool = False


@dataclass(frozen=True)
class Refreshed:
    """One step: marks looked at, items embedded, and how long each of those had been marked, where its mark says when that was."""

    looked_at: int
    embedded: int
    delays_ms: tuple[int, ...] = ()


class Refresher:
    """Works through the dirty marks in turn. One per partition set; `revision` grows with every batch."""

    def __init__(  # noqa: PLR0913  # what it works on, and two settings
        self, state: State, neighbours: Neighbours, catalogue: Catalogue, shape: Shape, *, epoch: int, distance_min: float = 0.2
    ) -> None:
        self._state, self._neighbours, self._catalogue, self._shape = state, neighbours, catalogue, shape
        self._epoch, self._distance_min = epoch, distance_min
        self._batch = 0
        self._floors: dict[str, int] = {}
        self._next = [0] * shape.partitions
        self.partitions: Sequence[int] = range(shape.partitions)
        """Whose marks are looked at: those of other node partitions are another refresher's."""

    def claim(self, epoch: int) -> None:
        """From now on under this epoch, which must be above all that were."""
        self._epoch, self._batch = epoch, 0
        self._floors.clear()

    def pending(self) -> int:
        """How many items are marked dirty."""
        return sum(1 for partition in self.partitions for _ in self._state.scan(DIRTY, partition))

    def step(self, targets: Sequence[Target], *, now_ms: int, items_max: int = 64) -> Refreshed:
        """Look at up to `items_max` dirty items of each partition; the first target is the live one and is what is noted.

        In order: 1. embed those that changed enough, 2. upsert them (deleted ones get a tombstone), 3. note what was embedded,
        4. clear the marks that have not moved since, which the state compares. A crash between 2 and 3 embeds again.
        """
        return self._look(targets, {p: self._marks(p, items_max) for p in self.partitions}, now_ms)

    def step_on(self, targets: Sequence[Target], nodes: U64s, *, now_ms: int) -> Refreshed:
        """The same for these items, out of turn, marked or not: what the catalogue has just learned of is to be found at once.

        Not marked any more is what a step met while the catalogue still had the content before.
        """
        where, marks = node_partition(nodes, self._shape.partitions), {}
        for partition in set(np.unique(where).tolist()) & set(self.partitions):
            here = nodes[where == partition]
            found = zip(here.tolist(), self._state.read(DIRTY, partition, here), strict=True)
            marks[partition] = {node: bytes(mark or b"") for node, mark in found}
        return self._look(targets, marks, now_ms)

    def _look(self, targets: Sequence[Target], marked: dict[int, dict[int, bytes]], now_ms: int) -> Refreshed:
        looked_at = embedded = 0
        delays: list[int] = []
        for partition, marks in marked.items():
            nodes = np.array(sorted(marks), dtype=np.uint64)
            nodes = nodes[self._catalogue.rows(nodes) >= 0]  # of others the state knows already: their marks wait for the catalogue
            if not len(nodes):
                continue
            notes = self._notes(nodes, now_ms, targets[0].generation)
            changed, renewed = self._changed(partition, nodes, notes)
            self._upsert(targets, nodes[changed], renewed[changed], now_ms)
            if changed.any():
                self._state.commit([], [Write(EMBEDDED, partition, nodes[changed], [notes[n] for n in np.flatnonzero(changed)])])
            self._state.clear(DIRTY, partition, nodes, [marks[node] for node in nodes.tolist()])
            looked_at, embedded = looked_at + len(nodes), embedded + int(changed.sum())
            delays += [now_ms - marked_ms(marks[node]) for node in nodes[changed].tolist() if marked_ms(marks[node])]
        return Refreshed(looked_at, embedded, tuple(delays))

    def embed_all(self, targets: Sequence[Target], ids: U64s, *, now_ms: int) -> None:
        """Embed these items whatever changed: how a new generation is built. Their dirty marks stay."""
        notes = self._notes(ids, now_ms, targets[0].generation)
        self._upsert(targets, ids, np.ones(len(ids), dtype=np.bool_), now_ms)
        self._state.commit([], write_rows(EMBEDDED, node_partition(ids, self._shape.partitions), ids, notes))

    def mark_all(self, generation: int) -> None:
        """Mark every item that was not embedded in this generation: what a flip to a new space leaves to do."""
        ids = self._catalogue.ids
        where = node_partition(ids, self._shape.partitions)
        for partition in self.partitions:
            here = ids[where == partition]
            stale = [_generation(blob) != generation for blob in self._state.read(EMBEDDED, partition, here)]
            if any(stale):
                self._state.commit([], write_rows(DIRTY, where[where == partition][stale], here[stale], [b"all"] * sum(stale)))

    def _marks(self, partition: int, items_max: int) -> dict[int, bytes]:
        """The next marks in turn: from where the last step ended, and round again to there."""
        begin, marks = self._next[partition], {}
        turn = itertools.chain(
            self._state.scan(DIRTY, partition, start=begin),
            itertools.takewhile(lambda row: row[0] < begin, self._state.scan(DIRTY, partition)),
        )
        for node, mark in itertools.islice(turn, items_max):
            marks[node] = bytes(mark)
        self._next[partition] = (next(reversed(marks)) + 1) % 2**64 if marks else 0
        return marks

    def _notes(self, nodes: U64s, now_ms: int, generation: int) -> list[bytes]:
        """What each item is embedded from, taken before the embedding: what changes meanwhile is then seen as a change."""
        notes = []
        for node, (neighbours, weights) in zip(nodes.tolist(), self._neighbours.read(CO_ENGAGED, nodes, as_of_ms=now_ms), strict=True):
            heaviest, weights = neighbours[:COMPARED_MAX], weights[:COMPARED_MAX]
            total = weights.sum()
            notes.append(_note(generation, self._offset(node), (heaviest, weights / total if total > 0 else weights)))
        return notes

    def _changed(self, partition: int, nodes: U64s, notes: list[bytes]) -> tuple[Bools, Bools]:
        """Which items are to be embedded again, and which of these because their content is new: (N,) each."""
        changed, renewed = np.zeros(len(nodes), dtype=np.bool_), np.zeros(len(nodes), dtype=np.bool_)
        for n, (blob, note) in enumerate(zip(self._state.read(EMBEDDED, partition, nodes), notes, strict=True)):
            renewed[n] = blob is None or _content_offset(blob) != _content_offset(note)
            same = not renewed[n] and _generation(blob) == _generation(note)
            changed[n] = not same or _distance(_noted(blob or b""), _noted(note)) > self._distance_min
        return changed, renewed

    def _upsert(self, targets: Sequence[Target], nodes: U64s, renewed: Bools, now_ms: int) -> None:
        if not len(nodes):
            return
        self._batch += 1
        rows = self._catalogue.rows(nodes)
        gone = self._catalogue.deleted[rows]
        for target in targets:
            revision = self._floor(target.vectors) + self._batch
            if gone.any():
                target.vectors.delete(nodes[gone], revision=revision)
            wanted = nodes[~gone & renewed] if target.kept else nodes[~gone]
            if len(wanted):
                target.vectors.upsert(wanted, target.embed(wanted, now_ms), revision=revision)

    def _floor(self, vectors: Vectors) -> int:
        """Where this claim's revisions of a collection begin: above all that were there when it was first written to under the claim.

        Read once: who is passed by later must stay below. Above also what was written under an epoch that a state which lost its last
        second gives out again.
        """
        if vectors.collection not in self._floors:
            self._floors[vectors.collection] = max(self._epoch, (vectors.revision_max() >> 32) + 1) << 32
        return self._floors[vectors.collection]

    def _offset(self, node: int) -> int:
        row = self._catalogue.row(node)
        return self._catalogue.content(row).offset if row >= 0 else -1


def marked_ms(mark: bytes) -> int:
    """When what made the mark was appended; 0 where it does not say."""
    return int.from_bytes(mark[8:16], "little") if len(mark) == _TIMED_BYTES else 0


def _note(generation: int, content_offset: int, share: tuple[U64s, F64s]) -> bytes:
    head = np.array([generation, content_offset, len(share[0])], dtype=np.int64).tobytes()
    return head + share[0].tobytes() + share[1].astype(np.float32).tobytes()


def _noted(blob: bytes) -> tuple[U64s, F64s]:
    count = int(np.frombuffer(blob, dtype=np.int64, count=3)[2])
    nodes = np.frombuffer(blob, dtype=np.uint64, count=count, offset=_HEAD_BYTES)
    return nodes, np.frombuffer(blob, dtype=np.float32, offset=_HEAD_BYTES + 8 * count).astype(np.float64)


def _generation(blob: bytes | None) -> int:
    return int(np.frombuffer(blob, dtype=np.int64, count=1)[0]) if blob else -1


def _content_offset(blob: bytes) -> int:
    return int(np.frombuffer(blob, dtype=np.int64, count=2)[1])


def _distance(before: tuple[U64s, F64s], now: tuple[U64s, F64s]) -> float:
    """L1 distance of two sparse distributions; 2 when they share nothing."""
    held = dict(zip(before[0].tolist(), before[1].tolist(), strict=True))
    total = 0.0
    for node, share in zip(now[0].tolist(), now[1].tolist(), strict=True):
        total += abs(share - held.pop(node, 0.0))
    return total + sum(held.values())
