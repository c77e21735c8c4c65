"""Every system's ranks, computed beside the stream in a thread of its own: the product's time is the product's.

The thread is told in order what came, so each system answers what it would have answered in line. What changes meanwhile
(live counts, a collection that goes on being refreshed) is taken along with the question.

    ranking = Ranking(num_items); ranking.ask("u1", row, models=ranks); ranking.learn("u1", row); ranking.ranks()
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from serving.live import LiveModel
from storage.arrays import F32s, I64s
from storage.vectors_memory import MemoryVectors
from trainers.baselines import Baseline, Popular, RecentPopular, seq_rules
from trainers.metrics import mid_ranks

BASELINES: Final = ("popular", "recent", "cooccurrence")
TOLD_AT_ONCE: Final = 32
WAITING_MAX: Final = 16
"""The stream waits when so many parcels of events are not ranked yet."""


class _Told(NamedTuple):
    """An event: to be learned, or, with `models`, to be ranked by all."""

    user_id: str
    row: int
    models: Callable[[], list[int]] | None


class Ranking:
    """Ranks are those of the models asked, then of `BASELINES`, one list an `ask`, in order.

    An error in the thread is raised by the next call. Close it.
    """

    def __init__(self, num_items: int) -> None:
        self._baselines: tuple[Baseline, ...] = (Popular(num_items), RecentPopular(num_items), seq_rules(num_items))
        self._had: dict[str, dict[int, None]] = {}
        self._ranks: list[list[int]] = []
        self._parcel: list[_Told] = []
        self._waiting: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ranking")

    def ask(self, user_id: str, row: int, *, models: Callable[[], list[int]]) -> None:
        """Rank an item among those the user has not had; `models` is called in the thread."""
        self._tell(_Told(user_id, row, models))

    def learn(self, user_id: str, row: int) -> None:
        """Let the baselines learn that a user took an item for the first time."""
        self._tell(_Told(user_id, row, None))

    def so_far(self) -> list[list[int]]:
        """What is ranked already; the newest questions may be missing."""
        return self._ranks

    def ranks(self) -> list[list[int]]:
        """All of them: waits for what is under way."""
        self._send()
        while self._waiting:
            self._waiting.popleft().result()
        return self._ranks

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _tell(self, told: _Told) -> None:
        self._parcel.append(told)
        if len(self._parcel) >= TOLD_AT_ONCE:
            self._send()
            while self._waiting[0].done() or len(self._waiting) > WAITING_MAX:
                self._waiting.popleft().result()
                if not self._waiting:
                    break

    def _send(self) -> None:
        parcel, self._parcel = self._parcel, []
        if parcel:
            self._waiting.append(self._thread.submit(self._take, parcel))

    def _take(self, parcel: list[_Told]) -> None:
        for told in parcel:
            had = self._had.setdefault(told.user_id, {})
            history = np.fromiter(reversed(had), np.int64, len(had))
            if told.models is not None:
                self._ranks.append([*told.models(), *self._counted(history, told.row)])
                continue
            for baseline in self._baselines:
                baseline.learn(history, told.row)
            had[told.row] = None

    def _counted(self, history: I64s, row: int) -> list[int]:
        scores = np.stack([baseline.scores(history) for baseline in self._baselines])
        scores[:, history] = -np.inf
        return mid_ranks(scores, np.full(len(scores), row)).tolist()  # type: ignore[no-any-return]  # numpy's tolist


class Still:
    """A model whose collection changes, as it is at one moment after the other."""

    def __init__(self) -> None:
        self._matrix: F32s | None = None
        self._live: LiveModel | None = None

    def of(self, live: LiveModel) -> LiveModel:
        """The model with a copy of its vectors that nobody will change; the last copy, if they are the same still."""
        if live.in_memory is None:
            return live
        ids, matrix = live.in_memory.matrix()
        if self._live is None or self._matrix is not matrix or self._live.version != live.version:
            vectors = MemoryVectors(live.vectors.dim, collection=live.collection)
            vectors.upsert(ids, matrix, revision=1)
            self._matrix, self._live = matrix, replace(live, vectors=vectors)
        return self._live
