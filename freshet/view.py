"""Everything a look-up needs over one state: the live server has one over LMDB, a replayed past has one in memory.

view = View(state, shape); view.load(); view.take(applied); view.lookup(live).recommend("u1", now_ms=now_ms)
"""

from collections.abc import Callable
from itertools import chain

import numpy as np

from freshet.features import ItemFacts
from serving.contents import Contents
from serving.live import LiveModel
from serving.lookup import Lookup
from serving.popularity import Popularity
from serving.progress import Progress
from serving.rows import RowIndex
from serving.sessions import Sessions
from serving.sources import Reader
from storage.arrays import F64s, I64s, U64s
from storage.catalogue import Catalogue, Content
from storage.counts import Counts
from storage.histories import Histories, decode
from storage.names import Names
from storage.neighbours import Neighbours
from storage.state import HISTORIES, State
from stream.ingest import Applied
from stream.routing import partition_of
from stream.shape import Shape


class View:
    """Catalogue, contents, popularity, sessions, histories and neighbours of one state, kept fresh by `take` after each commit.

    Without `keeps_sessions` there are none: for who answers nobody.
    """

    def __init__(self, state: State, shape: Shape, names: Names, progress: Progress | None = None, *, keeps_sessions: bool = True) -> None:
        self._state, self._shape, self._names, self._keeps_sessions = state, shape, names, keeps_sessions
        self.catalogue = Catalogue()
        self.histories = Histories(state)
        self.neighbours = Neighbours(state, shape.partitions, shape.edge_half_life_ms)
        self.counts = Counts(state, shape.partitions, shape.count_half_life_ms)
        self.index = RowIndex(self.catalogue)
        self.popularity = Popularity(self.index, self.counts, partitions=shape.partitions, half_life_ms=shape.count_half_life_ms)
        self.sessions = Sessions(self.index)
        self.contents = Contents(self.catalogue)
        self.progress = progress or Progress()
        self.reader = Reader(
            self.catalogue, self.index, histories=self.histories, neighbours=self.neighbours, popularity=self.popularity,
            sessions=self.sessions, contents=self.contents, partition_of=lambda user: partition_of(user, shape.partitions),
            positive=shape.positive,
        )  # fmt: skip

    def load(self) -> None:
        """Read catalogue, counts and sessions from the state."""
        self.catalogue.load(self._state, self._names, self._shape.partitions)
        self.contents.load()
        self.popularity.load()
        if self._keeps_sessions:
            self._load_sessions()

    def lookup(self, live: Callable[[], LiveModel | None]) -> Lookup:
        """Look-ups over this view with whatever model `live` gives."""
        return Lookup(self.reader, live, self.progress)

    def facts(self, widths: tuple[int, ...]) -> ItemFacts:
        """What an item tower with so many places for neighbours of each relation reads, from this view."""
        return ItemFacts(self.catalogue, self.neighbours, self._degree, widths=widths)

    def take(self, applied: Applied, *, now_ms: int) -> None:
        """Learn what a commit changed: new items, counts, and how far the log is applied."""
        for name, node in applied.born.items():
            self.catalogue.add(node, name)
        self.popularity.update(applied.items, applied.counts)
        columns, liked = applied.columns, applied.kept & (applied.columns.weight > 0)
        self.take_likings(columns.users[liked], columns.items[liked], columns.stamps[liked] >> np.uint64(16))
        if applied.records:
            self.progress.advance(number=applied.decoded.records[-1].number, ts_ms=applied.ts_ms, now_ms=now_ms)

    def take_likings(self, users: U64s, items: U64s, ts_ms: U64s) -> None:
        """Learn likings (N,), a user's in their order: recent sessions go on or begin."""
        if self._keeps_sessions:
            self.sessions.take(users, items, ts_ms.astype(np.int64))

    def put(self, contents: dict[int, Content]) -> None:
        """Learn new content of items and collections."""
        for node, content in contents.items():
            self.catalogue.take(node, content)
        rows = self.catalogue.rows(np.fromiter(contents, np.uint64, len(contents)))
        self.contents.put(rows[rows >= 0])

    def _load_sessions(self) -> None:
        """The likings that the histories hold, in order of time, as many as there is room for.

        Histories come by user id, which is a hash: of more than there is room for, those of an even part of the users.
        """
        parts: list[tuple[U64s, U64s, I64s]] = []
        scans, room = (self._state.scan(HISTORIES, partition) for partition in range(self._shape.partitions)), self.sessions.likings_max
        for user, blob in chain.from_iterable(scans):
            history = decode(blob)
            room -= len(history)
            if room < 0:
                break
            liked = self._shape.positive[history.actions]
            parts.append((np.full(int(liked.sum()), user, dtype=np.uint64), history.items[liked], history.ts_ms[liked]))
        self.sessions.clear()
        if parts:
            users, items, ts_ms = (np.concatenate(part) for part in zip(*parts, strict=True))
            order = np.argsort(ts_ms, kind="stable")
            self.sessions.take(users[order], items[order], ts_ms[order])

    def _degree(self, ids: U64s) -> F64s:
        rows = self.index.rows(ids)
        positives = self.popularity.snapshot(len(self.catalogue)).positives
        return np.where(rows >= 0, positives[rows.clip(min=0)], 0.0)
