"""Everything a look-up needs over one state: the live server has one over LMDB, a replayed past has one in memory.

view = View(state, shape); view.load(); view.take(applied); view.lookup(live).recommend("u1", now_ms=now_ms)
"""

from collections.abc import Callable

import numpy as np

from freshet.features import ItemFacts
from serving.live import LiveModel
from serving.lookup import Lookup
from serving.popularity import Popularity
from serving.progress import Progress
from serving.rows import RowIndex
from serving.sources import Reader
from storage.arrays import F64s, U64s
from storage.catalogue import Catalogue, Content
from storage.counts import Counts
from storage.histories import Histories
from storage.names import Names
from storage.neighbours import Neighbours
from storage.state import State
from stream.ingest import Applied
from stream.routing import partition_of
from stream.shape import Shape


class View:
    """Catalogue, popularity, histories and neighbours of one state, kept fresh by `take` after each commit."""

    def __init__(self, state: State, shape: Shape, names: Names, progress: Progress | None = None) -> None:
        self._state, self._shape, self._names = state, shape, names
        self.catalogue = Catalogue()
        self.histories = Histories(state)
        self.neighbours = Neighbours(state, shape.partitions, shape.edge_half_life_ms)
        self.counts = Counts(state, shape.partitions, shape.count_half_life_ms)
        self.index = RowIndex(self.catalogue)
        self.popularity = Popularity(self.index, self.counts, partitions=shape.partitions, half_life_ms=shape.count_half_life_ms)
        self.progress = progress or Progress()
        self.reader = Reader(
            self.catalogue, self.index, histories=self.histories, neighbours=self.neighbours, popularity=self.popularity,
            partition_of=lambda user: partition_of(user, shape.partitions), positive=shape.positive,
        )  # fmt: skip

    def load(self) -> None:
        """Read catalogue and counts from the state."""
        self.catalogue.load(self._state, self._names, self._shape.partitions)
        self.popularity.load()

    def lookup(self, live: Callable[[], LiveModel | None]) -> Lookup:
        """Look-ups over this view with whatever model `live` gives."""
        return Lookup(self.reader, live, self.progress)

    def facts(self, *, neighbours_max: int) -> ItemFacts:
        """What an item tower reads, from this view."""
        return ItemFacts(self.catalogue, self.neighbours, self._degree, neighbours_max=neighbours_max)

    def take(self, applied: Applied, *, now_ms: int) -> None:
        """Learn what a commit changed: new items, counts, and how far the log is applied."""
        for name, node in applied.born.items():
            self.catalogue.add(node, name)
        self.popularity.update(applied.items, applied.counts)
        if applied.records:
            self.progress.advance(number=applied.decoded.records[-1].number, ts_ms=applied.ts_ms, now_ms=now_ms)

    def put(self, contents: dict[int, Content]) -> None:
        """Learn new content of items."""
        for node, content in contents.items():
            if content.kind == "item":
                self.catalogue.put(node, content)

    def _degree(self, ids: U64s) -> F64s:
        rows = self.index.rows(ids)
        positives = self.popularity.snapshot(len(self.catalogue)).positives
        return np.where(rows >= 0, positives[rows.clip(min=0)], 0.0)
