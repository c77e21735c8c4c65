"""Item-KNN and sequential rules over whole sequences: sparse pair counts that a stream of sequences adds to.

    rules = SequenceRules(num_items, step_weight=0.7); rules.learn(sequence); rules.scores(inputs)

h_0 is an input's newest item, at most 200 are used. Pair counts are integers, so the state is the same bits whether sequences came one
by one or all at once. What is learned waits until the counts are read, or until a million clicks wait, and is then added as one matrix.

- Item-KNN: S_ij = c_ij / sqrt((n_i + 20)(n_j + 20)), c = sequences having both, n = sequences having it, S_ii = 0.
- Rules: M_ij = (sum of 1/g over i before j at distance g = 1..5) / (n_i + 5), n = clicks.
- Both: score = sum_p step_weight^p row[h_p]; `step_weight` 0 is the row of the last item alone.

Source: the evaluation protocol, sections 2 (weights .8 and .7) and 3 (last item alone; there the rows of the rules are not divided by
n_i + 5, which changes no order inside a row). Constants are the protocol's.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.sparse import coo_array, csr_array

from encoders.base import F64s, I64s, Ragged
from trainers.sequence_kernels import nearby_pairs

INPUT_ITEMS_MAX: Final = 200
KNN_SMOOTHING: Final = 20.0
RULES_SMOOTHING: Final = 5.0
DISTANCE_UNITS: Final = np.array([60, 30, 20, 15, 12], dtype=np.int64)
"""1/g for g = 1..5 in sixtieths: sums are exact, and equal sums are equal bits."""
UNITS: Final = 60
WAITING_CLICKS_MAX: Final = 1 << 20
DENSE_SHARE: Final = 0.05
"""A matrix fuller than this is multiplied as a dense one: several times faster, for eight bytes a cell."""
DENSE_CELLS_MAX: Final = 1 << 26


class _PairCounts:
    """Integer sums over directed pairs of items, and a count of each item, of all sequences learned so far."""

    def __init__(self, num_items: int, count: Callable[[Ragged, int], tuple[csr_array, I64s]]) -> None:
        self._count = count
        self._pairs = csr_array((num_items, num_items), dtype=np.int64)
        self._items = np.zeros(num_items, dtype=np.int64)
        self._waiting: list[I64s] = []
        self._clicks = 0

    def add(self, sequence: I64s) -> None:
        self._waiting.append(sequence.copy())
        self._clicks += len(sequence)
        if self._clicks >= WAITING_CLICKS_MAX:
            self.read()

    def read(self) -> tuple[csr_array, I64s]:
        if self._waiting:
            pairs, items = self._count(ragged(self._waiting), len(self._items))
            self._pairs, self._items = self._pairs + pairs, self._items + items
            self._waiting, self._clicks = [], 0
        return self._pairs, self._items


class ItemKnn:
    """Items taken by the same users, or in the same sessions."""

    def __init__(self, num_items: int, *, step_weight: float) -> None:
        self._step_weight = step_weight
        self._counts = _PairCounts(num_items, _together)
        self._likeness: csr_array | F64s | None = None

    def learn(self, sequence: I64s) -> None:
        """Count what the sequence (n,) holds together."""
        self._counts.add(sequence)
        self._likeness = None

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I); zeros for an empty input."""
        return self.faded(inputs, self._step_weight)

    def faded(self, inputs: Ragged, step_weight: float) -> F64s:
        """The same with another step weight."""
        if self._likeness is None:
            pairs, items = self._counts.read()
            rows = np.repeat(np.arange(len(items)), np.diff(pairs.indptr))
            likeness = pairs.data / np.sqrt((items[rows] + KNN_SMOOTHING) * (items[pairs.indices] + KNN_SMOOTHING))
            likeness[rows == pairs.indices] = 0.0
            self._likeness = _dense_if_full(csr_array((likeness, pairs.indices, pairs.indptr), shape=pairs.shape))
        return _weighted(inputs, step_weight, self._likeness)


class SequenceRules:
    """What came soon after what."""

    def __init__(self, num_items: int, *, step_weight: float) -> None:
        self._step_weight = step_weight
        self._counts = _PairCounts(num_items, _after)
        self._rules: csr_array | F64s | None = None

    def learn(self, sequence: I64s) -> None:
        """Count what follows what in the sequence (n,)."""
        self._counts.add(sequence)
        self._rules = None

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I); zeros for an empty input."""
        if self._rules is None:
            pairs, items = self._counts.read()
            rows = np.repeat(np.arange(len(items)), np.diff(pairs.indptr))
            weights = pairs.data / (UNITS * (items[rows] + RULES_SMOOTHING))
            self._rules = _dense_if_full(csr_array((weights, pairs.indices, pairs.indptr), shape=pairs.shape))
        return _weighted(inputs, self._step_weight, self._rules)


def ragged(sequences: list[I64s]) -> Ragged:
    """Sequences side by side."""
    offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    values = np.concatenate(sequences) if sequences else np.zeros(0, dtype=np.int64)
    return Ragged(values.astype(np.int64, copy=False), offsets)


def recency(inputs: Ragged, step_weight: float, most: int, num_items: int) -> csr_array:
    """step_weight^p at each input's item number p from its end, p < most: (B, I), repeats added up."""
    lengths = np.diff(inputs.offsets)
    rows = np.repeat(np.arange(len(inputs)), lengths)
    places = inputs.offsets[1:][rows] - 1 - np.arange(len(inputs.values))
    kept = places < (most if step_weight else 1)
    cells = (step_weight ** places[kept], (rows[kept], inputs.values[kept]))
    return coo_array(cells, shape=(len(inputs), num_items)).tocsr()


def _weighted(inputs: Ragged, step_weight: float, matrix: csr_array | F64s) -> F64s:
    total = recency(inputs, step_weight, INPUT_ITEMS_MAX, matrix.shape[0]) @ matrix
    dense: F64s = total if isinstance(total, np.ndarray) else total.toarray()
    return dense


def _dense_if_full(matrix: csr_array) -> csr_array | F64s:
    cells = matrix.shape[0] * matrix.shape[1]
    full: F64s | csr_array = matrix.toarray() if DENSE_SHARE * cells < matrix.nnz and cells <= DENSE_CELLS_MAX else matrix
    return full


def _together(sequences: Ragged, num_items: int) -> tuple[csr_array, I64s]:
    held = csr_array(
        (np.ones(len(sequences.values), dtype=np.int64), sequences.values, sequences.offsets), shape=(len(sequences), num_items)
    )
    held.sum_duplicates()
    held.data[:] = 1
    return (held.T @ held).tocsr(), np.bincount(held.indices, minlength=num_items)


def _after(sequences: Ragged, num_items: int) -> tuple[csr_array, I64s]:
    rows, columns, units = nearby_pairs(sequences.values, sequences.offsets, DISTANCE_UNITS)
    pairs = coo_array((units, (rows, columns)), shape=(num_items, num_items)).tocsr()
    return pairs, np.bincount(sequences.values, minlength=num_items)
