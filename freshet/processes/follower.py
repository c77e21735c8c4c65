"""What an engine is to the embedded server, for a process that applies nothing itself: a view of the shared state, kept fresh.

Workers note what each commit changes; a follower reads the notes and the rows they name. Histories and neighbour lists
are not copied: look-ups read them from the state. Recent sessions are made of the likings that notes tell, and at first of those that
histories hold. A round that is not finished, because Redis went away in its middle, is made good by loading everything again: it may also
have come back without its last second.

    follower = Follower(settings, shape, state, ChangeFeed(client, partitions=12)); follower.pump(now_ms=now_ms)
"""

import logging
from typing import Final

import msgspec
import numpy as np

from freshet.engine import Pumped
from freshet.settings import Settings
from freshet.view import View
from serving.progress import PartitionProgress
from storage.arrays import U64s
from storage.catalogue import decode_content
from storage.changes_redis import Behind, ChangeFeed
from storage.ids import ITEM
from storage.names import Names
from storage.neighbours import node_partition
from storage.partitioned import read_rows
from storage.state import NAMES, NODES, TALLIES, State
from stream.ingest import EVENTS, Tally
from stream.shape import Shape

log = logging.getLogger(__name__)
COUNTED_MS: Final = 250
"""Counts change with every event, and how popular an item is not from one moment to the next."""
_TALLY = np.array([1], dtype=np.uint64)


class Follower:
    """For one thread; look-ups on any. Who falls too far behind, or finds a watermark set back, loads everything again.

    `keeps_sessions`: for who answers; who only refreshes spares itself reading the histories.
    """

    def __init__(self, settings: Settings, shape: Shape, state: State, feed: ChangeFeed, *, keeps_sessions: bool = True) -> None:
        self.settings, self.shape, self.state = settings, shape, state
        self.progress = PartitionProgress(shape.partitions)
        self._names, self._feed = Names(state), feed
        self.tallies: dict[int, Tally] = {}
        """By partition; replaced as a whole, so that other threads may walk through it."""
        self.view = View(state, shape, self._names, self.progress, keeps_sessions=keeps_sessions)
        self._marks: dict[int, int] = {}
        self._counted, self._counted_ms = np.empty(0, np.uint64), 0
        self._whole = False
        self._fill(now_ms=0)

    @property
    def accepted(self) -> int:
        """How many events the workers have accepted in all."""
        return sum(tally.accepted for tally in self.tallies.values())

    @property
    def _newest_ms(self) -> int:
        """Of all events applied."""
        return max((tally.newest_ms for tally in self.tallies.values()), default=0)

    def pump(self, *, now_ms: int, records_max: int | None = None) -> Pumped:
        """Take what the workers changed since the last time. `records_max` means nothing here: it is theirs to bound."""
        if not self._whole:
            return self._again("Redis was away, or the last round was not finished", now_ms)
        self._whole = False
        try:
            changes = self._feed.read()
        except Behind as behind:
            return self._again(str(behind), now_ms)
        if set_back := sorted(p for p, mark in changes.marks.items() if mark < self._marks.get(p, 0)):
            return self._again(f"the watermark of partition {set_back[0]} was set back", now_ms)
        self.tallies = self.tallies | {p: msgspec.json.decode(blob, type=Tally) for p, blob in changes.tallies.items() if blob}
        born = self._learn_items(np.union1d(changes.nodes, changes.counted))
        contents = self._contents(changes.nodes)
        self._counted = np.union1d(self._counted, changes.counted)
        if len(self._counted) and not 0 <= now_ms - self._counted_ms < COUNTED_MS:
            self.view.popularity.reload(self._counted, self._newest_ms)
            self._counted, self._counted_ms = self._counted[:0], now_ms
        self.view.take_likings(*changes.likings.T.copy())
        self._advance(changes.marks, now_ms)
        self._whole = True
        return Pumped(events=len(changes.counted), entities=len(contents), items=tuple({*born, *contents}))

    def distrust(self) -> None:
        """Redis was away, and may come back without its last second: the next round loads everything again."""
        self._whole = False

    def _again(self, because: str, now_ms: int) -> Pumped:
        log.warning("view_loaded_again because=%s", because)
        self._fill(now_ms=now_ms)
        return Pumped()

    def _fill(self, *, now_ms: int) -> None:
        """Everything there is, after marking where the notes go on: what comes meanwhile is read twice, which does no harm."""
        self._whole = False
        self._feed.skip()
        marks = self.state.watermarks(EVENTS)
        asked = [(TALLIES, partition, _TALLY) for partition in range(self.shape.partitions)]
        found = [blobs[0] for blobs in self.state.read_many(asked)]
        self.tallies = {p: msgspec.json.decode(blob, type=Tally) for p, blob in enumerate(found) if blob}
        ids = self.view.catalogue.ids
        counted = ids[self.view.popularity.snapshot(len(ids)).events > 0]
        self.view.load()
        self._feed.skip_likings()
        if len(counted):  # one that has no count any more is not among what was loaded
            self.view.popularity.reload(counted, self._newest_ms)
        self._advance(marks, now_ms)
        self._whole = True

    def _advance(self, marks: dict[int, int], now_ms: int) -> None:
        self._marks = self._marks | marks
        self.progress.move(marks, ts_ms=self._newest_ms, now_ms=now_ms)

    def _learn_items(self, ids: U64s) -> list[int]:
        """Items that are not in the catalogue yet, by the names the state has for them."""
        new = ids[self.view.catalogue.rows(ids) < 0] if len(ids) else ids
        born = []
        for node, blob in zip(new.tolist(), self._rows(NAMES, new), strict=True):
            if blob is not None and blob[0] == ITEM:
                self.view.catalogue.add(node, bytes(blob[1:]).decode("utf-8", "surrogatepass"))
                born.append(node)
        return born

    def _contents(self, nodes: U64s) -> list[int]:
        """Take the content of these nodes; which of them are items that have some."""
        found = zip(nodes.tolist(), self._rows(NODES, nodes), strict=True)
        contents = {node: decode_content(blob) for node, blob in found if blob is not None}
        self.view.put(contents)
        return [node for node, content in contents.items() if content.kind == "item"]

    def _rows(self, table: str, nodes: U64s) -> list[bytes | None]:
        return read_rows(self.state, table, node_partition(nodes, self.shape.partitions), nodes) if len(nodes) else []
