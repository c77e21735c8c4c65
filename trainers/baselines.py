"""Counting baselines of the prequential protocol: popularity, recent popularity, Item-KNN, sequential rules, and their mix.

What a model has to beat. Each is asked first and learns afterwards, one event at a time. Items are dense rows
0..num_items - 1; a history is the rows of a user's items, newest first, without repeats (the protocol skips a repeated
user and item). Only the last ten count. Ranking and tie rules are not here: see `trainers/metrics.py`.

    baselines = Baselines(num_items); by_name = baselines.scores(history); baselines.learn(history, row)

Source: the evaluation protocol, format `prequential`. Constants are the protocol's.
"""

from typing import Final, Protocol

import numpy as np

from storage.arrays import F64s, I32s, I64s
from trainers import kernels

HISTORY_MAX: Final = 10
FADE: Final = 0.996
STEP_WEIGHT: Final = 0.8
SMOOTHING: Final = 10.0
MIX_SHARE: Final = 0.01
DENSE_ITEMS_MAX: Final = 8_192  # 256 MiB a matrix, and there are two; sparse rows cost about the same time
SPARSE_ROW_MAX: Final = 8_192
UNITS: Final = 5_040
"""Pair counts are integers in 1/5040: 1/(p + 1) and .5/(p + 1) are then exact for p < 10, and equal sums are equal bits."""

_COUNT_MAX: Final = 2**31 - 1 - UNITS
_RESCALE_AT: Final = 1e150


class Baseline(Protocol):
    """Scores before it learns; what it has never counted scores 0."""

    def scores(self, history: I64s) -> F64s:
        """A score for every item, (I,), for the next item after `history` (newest first)."""

    def learn(self, history: I64s, row: int) -> None:
        """Count that `row` came after `history`."""


class Popular:
    """score(q) = n_q, the number of learned events of q."""

    def __init__(self, num_items: int) -> None:
        self._counts = np.zeros(num_items)

    def scores(self, history: I64s) -> F64s:
        """Learned counts, (I,); the history is not looked at."""
        return self._counts.copy()

    def learn(self, history: I64s, row: int) -> None:
        """Add one to the row's count."""
        self._counts[row] += 1


class RecentPopular:
    """Counts that fade: all are multiplied by .996 at each learned event, then the item's gains 1.

    Done forwards: instead of shrinking every count, the next event weighs 1/.996 more than the last, and a read divides
    by the weight of the newest. Same numbers up to float64 rounding, O(1) per event.
    """

    def __init__(self, num_items: int) -> None:
        self._weighted = np.zeros(num_items)
        self._newest = 1.0

    def scores(self, history: I64s) -> F64s:
        """Faded counts, (I,); the history is not looked at."""
        return self._weighted / self._newest

    def learn(self, history: I64s, row: int) -> None:
        """Fade everything by one event, then add one to the row."""
        self._newest /= FADE
        if self._newest > _RESCALE_AT:
            self._weighted /= self._newest
            self._newest = 1.0
        self._weighted[row] += self._newest


class _DensePairs:
    """Directed pair counts as one matrix of int32, 4 I^2 bytes (the system hands out its pages as they are touched)."""

    def __init__(self, num_items: int) -> None:
        self._counts = np.zeros((num_items, num_items), dtype=np.int32)

    def add(self, rows: I64s, columns: I64s, units: I32s) -> None:
        cells = np.minimum(self._counts[rows, columns], _COUNT_MAX)
        self._counts[rows, columns] = cells + units

    def weighted_sum(self, rows: I64s, weights: F64s) -> F64s:
        # row after row, so the sparse form gives the same bits
        total: F64s = kernels.weighted_rows(self._counts, rows, weights)
        return total


class _SparseRow:
    """One item's followers: columns and counts side by side, found through a dictionary of places."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.columns = np.zeros(4, dtype=np.int64)
        self.counts = np.zeros(4, dtype=np.int32)

    def add(self, column: int, units: int, row_max: int) -> None:
        place = self.places.get(column)
        if place is None:
            place = self._place(row_max)
            self.places[column] = place
            self.columns[place], self.counts[place] = column, 0
        self.counts[place] = min(int(self.counts[place]), _COUNT_MAX) + units

    def _place(self, row_max: int) -> int:
        used = len(self.places)
        if used >= row_max:  # full: the smallest count makes room
            smallest = int(self.counts[:used].argmin())
            del self.places[int(self.columns[smallest])]
            return smallest
        if used == len(self.columns):
            self.columns = np.concatenate([self.columns, np.zeros_like(self.columns)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        return used


class _SparsePairs:
    """The same counts in rows that exist only once touched; for catalogues too large for a square matrix."""

    def __init__(self, num_items: int, row_max: int = SPARSE_ROW_MAX) -> None:
        self._rows: dict[int, _SparseRow] = {}
        self._num_items, self._row_max = num_items, row_max

    def add(self, rows: I64s, columns: I64s, units: I32s) -> None:
        for row, column, unit in zip(rows.tolist(), columns.tolist(), units.tolist(), strict=True):
            held = self._rows.get(row)
            if held is None:
                held = self._rows[row] = _SparseRow()
            held.add(column, unit, self._row_max)

    def weighted_sum(self, rows: I64s, weights: F64s) -> F64s:
        total = np.zeros(self._num_items)
        for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
            held = self._rows.get(row)
            if held is not None:
                used = len(held.places)
                total[held.columns[:used]] += held.counts[:used] * weight
        return total


class Cooccurrence:
    """score(q) = sum_p .8^p C[j_p, q] / sqrt((n_j + 10)(n_q + 10)); made by `item_knn` and `seq_rules`.

    Learning i after j_0..j_9 adds forward[p] units to C[j_p, i] and backward[p] to C[i, j_p], a unit being 1/5040.
    `dense_items_max` decides between a square matrix and sparse rows of at most 8 192 followers; the scores are the same
    bits as long as no sparse row is full.
    """

    def __init__(self, forward: I32s, backward: I32s, *, num_items: int, dense_items_max: int) -> None:
        dense = num_items <= dense_items_max
        self._pairs: _DensePairs | _SparsePairs = _DensePairs(num_items) if dense else _SparsePairs(num_items)
        self._forward, self._backward = forward, backward
        self._root = np.full(num_items, SMOOTHING**0.5)
        self._counts = np.zeros(num_items, dtype=np.int64)
        self._steps = STEP_WEIGHT ** np.arange(HISTORY_MAX) / UNITS

    def scores(self, history: I64s) -> F64s:
        """Scores of every item, (I,); zeros for an empty history."""
        recent = np.asarray(history, dtype=np.int64)[:HISTORY_MAX]
        if not len(recent):
            return np.zeros(len(self._root))
        weights = self._steps[: len(recent)] / self._root[recent]
        total: F64s = self._pairs.weighted_sum(recent, weights)
        total /= self._root
        return total

    def learn(self, history: I64s, row: int) -> None:
        """Count the item, and its pairs with the last ten before it, both ways."""
        recent = np.asarray(history, dtype=np.int64)[:HISTORY_MAX]
        if len(recent):
            here = np.full(len(recent), row, dtype=np.int64)
            self._pairs.add(recent, here, self._forward[: len(recent)])
            self._pairs.add(here, recent, self._backward[: len(recent)])
        self._counts[row] += 1
        self._root[row] = (self._counts[row] + SMOOTHING) ** 0.5


def item_knn(num_items: int, *, dense_items_max: int = DENSE_ITEMS_MAX) -> Cooccurrence:
    """Item-KNN: learning i after j_0..j_9 adds 1 to C[j_p, i] and to C[i, j_p]."""
    whole = np.full(HISTORY_MAX, UNITS, dtype=np.int32)
    return Cooccurrence(whole, whole, num_items=num_items, dense_items_max=dense_items_max)


def seq_rules(num_items: int, *, dense_items_max: int = DENSE_ITEMS_MAX) -> Cooccurrence:
    """Sequential rules: learning i after j_0..j_9 adds 1/(p + 1) to C[j_p, i] and .5/(p + 1) to C[i, j_p]."""
    forward = (UNITS // np.arange(1, HISTORY_MAX + 1)).astype(np.int32)
    return Cooccurrence(forward, forward // 2, num_items=num_items, dense_items_max=dense_items_max)


def mix(rules: F64s, recent: F64s) -> F64s:
    """The mix's scores from those of its parts: SeqRules + .01 * recent popularity."""
    return rules + MIX_SHARE * recent


class Mix:
    """SeqRules + .01 * recent popularity, with parts of its own."""

    def __init__(self, num_items: int, *, dense_items_max: int = DENSE_ITEMS_MAX) -> None:
        self._rules = seq_rules(num_items, dense_items_max=dense_items_max)
        self._recent = RecentPopular(num_items)

    def scores(self, history: I64s) -> F64s:
        """Scores of every item, (I,)."""
        return mix(self._rules.scores(history), self._recent.scores(history))

    def learn(self, history: I64s, row: int) -> None:
        """Both parts learn."""
        self._rules.learn(history, row)
        self._recent.learn(history, row)


class Baselines:
    """All five in one run, with the mix made from the others' scores: nothing is counted twice."""

    def __init__(self, num_items: int, *, dense_items_max: int = DENSE_ITEMS_MAX) -> None:
        self.parts: dict[str, Baseline] = {
            "pop": Popular(num_items),
            "recent": RecentPopular(num_items),
            "knn": item_knn(num_items, dense_items_max=dense_items_max),
            "rules": seq_rules(num_items, dense_items_max=dense_items_max),
        }

    def scores(self, history: I64s) -> dict[str, F64s]:
        """Scores by system: pop, recent, knn, rules, mix; each (I,)."""
        by_name = {name: part.scores(history) for name, part in self.parts.items()}
        return by_name | {"mix": mix(by_name["rules"], by_name["recent"])}

    def learn(self, history: I64s, row: int) -> None:
        """Every part learns the event."""
        for part in self.parts.values():
            part.learn(history, row)
