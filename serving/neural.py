"""The neural source: a user's vector, encoded there and then, against the vectors of one generation.

Nothing of it is stored, so no user vector can be stale.

    aim = aimed(history, live, now_ms=now_ms); column = neural(aim, catalogue, index, rows)
"""

from dataclasses import dataclass

import numpy as np

from serving.features import log_softmax
from serving.kernels import placed
from serving.live import LiveModel
from serving.rows import RowIndex
from storage.arrays import F32s, F64s, I64s, U64s
from storage.catalogue import Catalogue
from storage.histories import History


@dataclass(frozen=True)
class Aim:
    """A user's vector (D,) in the space of the model that made it."""

    live: LiveModel
    query: F32s


def aimed(history: History, live: LiveModel | None, *, now_ms: int) -> Aim | None:
    """Where this user is heading, from those actions whose items have a vector; nobody's history gives a stranger's vector.

    None without a model, and for a vector that is not finite: the source then says nothing, and the others answer.
    """
    if live is None:
        return None
    vectors, found = live.vectors.get(history.items)
    if found.all():
        query = live.model.encode_user(vectors, history.actions, history.ts_ms, now_ms)
    else:
        query = live.model.encode_user(vectors[found], history.actions[found], history.ts_ms[found], now_ms)
    return Aim(live, query) if np.isfinite(query).all() else None


class Space:
    """One generation's item vectors by catalogue row."""

    def __init__(self, live: LiveModel, catalogue: Catalogue, index: RowIndex) -> None:
        self._live, self._catalogue, self._index = live, catalogue, index

    def logits(self, query: F32s, rows: I64s) -> F64s:
        """temperature * cosine of each candidate row: (C,); -inf where an item has no vector yet.

        One product with the whole matrix where it lies in memory and is not much larger than the candidates; where vectors lie
        elsewhere they are multiplied there; else row by row.
        """
        vectors, in_memory, scoring = self._live.vectors, self._live.in_memory, self._live.scoring
        if in_memory is not None and len(vectors) <= 4 * len(rows):
            ids, matrix = in_memory.matrix()
            products: F32s = matrix @ query
            logits: F64s = placed(products, self._index.rows(ids), len(self._catalogue), rows, self._live.model.temperature)
            return logits
        if scoring is not None:
            return scoring.scores(query, self._catalogue.ids[rows]).astype(np.float64) * self._live.model.temperature
        found_rows, found = vectors.get(self._catalogue.ids[rows])
        return np.where(found, (found_rows @ query).astype(np.float64) * self._live.model.temperature, -np.inf)

    def nearest(self, query: F32s, k: int, *, exclude: U64s | None) -> I64s:
        """Catalogue rows of the k nearest items, nearest first."""
        ids, _ = self._live.vectors.search(query[None, :], k, exclude=exclude)
        rows = self._index.rows(ids[0])
        return rows[rows >= 0]


def neural(aim: Aim | None, catalogue: Catalogue, index: RowIndex, rows: I64s) -> F64s:
    """What the source says of candidate rows (C,): temperature * cosine minus its logsumexp over them; constant without an aim."""
    return log_softmax(Space(aim.live, catalogue, index).logits(aim.query, rows) if aim else np.zeros(len(rows)))
