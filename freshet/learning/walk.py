"""A walk through the past: a state in memory that grows event by event, and look-ups in between that see only what came before.

What the gate and the fitting of blends use, so that they measure the product's own path: the same reducers, the same
look-up, point in time.

    walk = Walk(shape, contents); walk.advance(decoded)
    for asked in walk.ask_each(table): features = walk.features(asked, {"live": aim})
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from freshet.view import View
from serving.linear import LinearSource
from serving.neural import Aim
from serving.sources import LINEAR, Context
from storage.arrays import F64s, I64s
from storage.catalogue import Content
from storage.ids import ITEM, hash_id
from storage.log import Position, Record, Topic
from storage.names import Names
from storage.state_memory import MemoryState
from stream.archiving import from_archive, row_by_row
from stream.ingest import Applied, Ingest
from stream.shape import Shape
from stream.validation import refusals
from stream.wire import Decoded


class _NoLog:
    """The log of a replay: it is never appended to nor read, only asked for a topic's identity."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def topic(self, name: str) -> Topic:
        return Topic(name, "replay", self._partitions)

    def append(self, topic: str, entries: object, *, now_ms: int) -> list[Position]:
        raise AssertionError("a replay appends nothing")

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        raise AssertionError("a replay reads no log")

    def first_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return 0


@dataclass(frozen=True)
class Question:
    """One event that is about to be applied: who, when, and what was taken."""

    user_id: str
    item_id: str
    ts_ms: int
    positive: bool


@dataclass(frozen=True)
class Asked:
    """A look-up made before its event was applied: candidate rows (C,), the place of the item taken among them, -1 if absent.

    `engaged`: how often anybody had engaged with that item by then.
    """

    question: Question
    context: Context
    rows: I64s
    target: int
    engaged: int


class Walk:
    """A past that grows. `contents`: what is known of the items (their content is not point in time; their counts are)."""

    def __init__(self, shape: Shape, contents: dict[int, Content]) -> None:
        self.state = MemoryState()
        names = Names(self.state)
        self.shape, self.view = shape, View(self.state, shape, names)
        self._ingest = Ingest(self.state, _NoLog(shape.partitions), shape, names=names, replaying=True)
        self._ingest.claim()
        self.view.put(contents)
        self._lookup = self.view.lookup(lambda: None)

    def advance(self, decoded: Decoded) -> Applied:
        """Apply a batch without asking anything."""
        applied = self._ingest.apply_decoded(decoded, now_ms=0)
        self.view.take(applied, now_ms=0)
        return applied

    def ask_each(self, table: pa.Table, *, most: int | None = None) -> Iterator[Asked]:
        """Before each event of an archive table, or before `most` of them, evenly: the look-up its user could have made. Then apply it.

        Yields only for accepted events that name an item, are a liking, and whose user has a history without that item.
        What is yielded reads live counts: use it before asking for the next.
        """
        questions = _questions(table, self.shape)
        if most is not None:
            questions = _evenly(questions, most)
        for question, decoded in zip(questions, row_by_row(table), strict=True):
            if question is not None and question.positive:
                asked = self._ask(question)
                if asked is not None:
                    yield asked
            self.advance(decoded)

    def _ask(self, question: Question) -> Asked | None:
        context = self._lookup.context(question.user_id, now_ms=question.ts_ms)
        if context.cold:
            return None
        row = self.view.catalogue.row(hash_id(question.item_id, ITEM))
        if row in context.seen:
            return None
        rows = self._lookup.candidates(context, None)
        at = np.flatnonzero(rows == row)
        return Asked(question, context, rows, int(at[0]) if len(at) else -1, int(context.heat.events[row]) if row >= 0 else 0)

    def features(self, asked: Asked, aims: Mapping[str, Aim | None], linears: Mapping[str, LinearSource]) -> dict[str, F64s]:
        """The look-up's features of its candidates with each version's aim and weights: (C, S) by name. Counts are counted once."""
        lookup, context, rows = self._lookup, asked.context, asked.rows
        counts = {neural: lookup.counting(context, rows, neural=neural) for neural in {aim is not None for aim in aims.values()}}
        found = {}
        for name, aim in aims.items():
            columns = np.vstack([lookup.neural(aim, rows), counts[aim is not None]])
            columns[LINEAR] = lookup.linear(context, rows, neural=aim is not None, linear=linears[name])
            found[name] = columns.T
        return found


def _evenly(questions: list[Question | None], most: int) -> list[Question | None]:
    """At most so many of the likings, the first and the last among them."""
    likings = [n for n, question in enumerate(questions) if question is not None and question.positive]
    kept = {likings[n] for n in np.linspace(0, len(likings) - 1, min(most, len(likings))).astype(np.int64).tolist()}
    return [question if n in kept else None for n, question in enumerate(questions)]


def _questions(table: pa.Table, shape: Shape) -> list[Question | None]:
    """Each row's question; None for what is no event, is refused, or names no item."""
    decoded = from_archive(table)
    append_ms = np.array([record.append_ms for record in decoded.records], dtype=np.int64)[decoded.record]
    refused = refusals(decoded.events, append_ms, shape)
    found: list[Question | None] = [None] * table.num_rows
    rows = np.flatnonzero(~np.asarray(table.column("bad").is_valid()) & (table.column("index").to_numpy() >= 0)).tolist()
    columns = (decoded.events.column(name).to_pylist() for name in ("user_id", "item_id", "ts_ms", "action"))
    for n, (row, user, item, ts_ms, action) in enumerate(zip(rows, *columns, strict=True)):
        if n not in refused and item is not None:
            found[row] = Question(user, item, ts_ms, shape.actions[action].positive)
    return found
