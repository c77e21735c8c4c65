"""What an item taken is compared with: the whole small catalogue, or a pool of uniform and in-batch draws and how likely each was.

sketch = CountMin(tau=10_000.0, seed=0); sketch.see(targets, now); pool = mixed_pool(rows, draws, generator)
"""

import math
from dataclasses import dataclass

import numpy as np

from encoders.base import F32s, F64s, I64s, U64s

DECAYS_MAX = 30.0  # e^30 is about 1e13: counts older than that are gone from float64 beside new ones


class CountMin:
    """How often ids were drawn of late: `depth` rows of `width` forward-decayed counters, time constant `tau` (inf: plain counts).

    Papers, 1.4 COUNT-MIN. A read is the least of an id's counters: exact without collisions, never too low. Memory 8 * depth * width bytes.
    """

    def __init__(self, *, tau: float, seed: int, depth: int = 4, width: int = 2**16) -> None:
        if tau <= 0 or depth < 1 or width < 2 or width & (width - 1):
            raise ValueError(f"tau must be positive, depth at least 1, width a power of two: {tau}, {depth}, {width}")
        self.tau, self.width = tau, width
        self.counts = np.zeros((depth, width))
        self.total = 0.0
        self.landmark = 0.0
        self.now = 0.0
        random = np.random.default_rng(seed)
        self._multipliers = random.integers(0, 2**64, size=(depth, 1), dtype=np.uint64) | np.uint64(1)

    def see(self, ids: U64s, now: float) -> None:
        """Count these draws at time `now` (any unit, that of `tau`; must not fall)."""
        if (now - self.landmark) / self.tau > DECAYS_MAX:
            self.rescale(now)
        self.now, gain = now, float(np.exp((now - self.landmark) / self.tau))
        for row, cells in zip(self.counts, self._cells(ids), strict=True):
            np.add.at(row, cells, gain)
        self.total += gain * len(ids)

    def rescale(self, now: float) -> None:
        """Move the landmark to `now`; changes no read."""
        fade = float(np.exp(-(now - self.landmark) / self.tau))
        self.counts *= fade
        self.total *= fade
        self.landmark = now

    def decayed(self, ids: U64s, now: float) -> F64s:
        """Decayed counts as of `now`, each at least the true one."""
        return self._least(ids) * float(np.exp(-(now - self.landmark) / self.tau))

    def log_q(self, ids: U64s, draws: int) -> F64s:
        """Natural log of each id's expected number among `draws`; the decay cancels. -inf for an id never seen."""
        with np.errstate(divide="ignore"):
            found: F64s = np.log(self._least(ids)) - np.log(self.total) + np.log(draws)
        return found

    def log_once(self, draws: int) -> float:
        """What `log_q` says of an id that was drawn once, just now. Raises ValueError when nothing was ever drawn."""
        return (self.now - self.landmark) / self.tau - math.log(self.total) + math.log(draws)

    def _least(self, ids: U64s) -> F64s:
        least: F64s = np.take_along_axis(self.counts, self._cells(ids), axis=1).min(axis=0)
        return least

    def _cells(self, ids: U64s) -> I64s:
        """(depth, n) by multiply and shift: the top bits of id * odd number, after the id's own bits are mixed."""
        mixed = (ids ^ (ids >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        shift = np.uint64(64 - (self.width.bit_length() - 1))
        return ((mixed[None, :] * self._multipliers) >> shift).astype(np.int64)


@dataclass(frozen=True)
class Pool:
    """Distinct item rows (K,), shared by all positions of a batch, and log_q (K,): log(expected draws / actual draws) of each.

    A row drawn c times stands once and counts c times, so that the mean of Σ exp(s - log_q) over pools is Σ exp(s) over what can be drawn.
    """

    rows: I64s
    log_q: F32s


def whole_catalogue(items: int) -> Pool:
    """Every item once: the sampled softmax is then the full one."""
    return Pool(np.arange(items, dtype=np.int64), np.zeros(items, dtype=np.float32))


def uniform_pool(items: int, draws: int, generator: np.random.Generator) -> Pool:
    """`draws` rows drawn uniformly with replacement; each is expected draws / items times."""
    rows, counts = np.unique(generator.integers(0, items, size=draws), return_counts=True)
    return Pool(rows.astype(np.int64), np.log(draws / items / counts).astype(np.float32))


@dataclass(frozen=True)
class Draws:
    """How a mixed pool is drawn: `in_batch` from what was taken of late (the sketch knows), `uniform` from the catalogue `ids` (I,)."""

    ids: U64s
    sketch: CountMin
    in_batch: int
    uniform: int

    def log_expected(self, rows: I64s) -> F64s:
        """Log of each row's expected number of draws; where the two parts overlap, expected draws add up.

        What neither part can bring (pairs ask for items that nobody took of late) counts as drawn once: of nothing there is no log.
        """
        expected = np.full(len(rows), self.uniform / len(self.ids))
        if self.in_batch:
            expected += np.exp(self.sketch.log_q(self.ids[rows], self.in_batch))
        never = expected == 0.0
        logs: F64s = np.log(np.where(never, 1.0, expected))
        if never.any():
            logs[never] = self.sketch.log_once(self.in_batch)
        return logs


def mixed_pool(taken: I64s, draws: Draws, generator: np.random.Generator) -> Pool:
    """The batch's own targets `taken` (rows, repeats and all) and the uniform draws, with replacement.

    The batch must have been counted (`sketch.see`) before.
    """
    drawn = np.concatenate([taken, generator.integers(0, len(draws.ids), size=draws.uniform)])
    rows, counts = np.unique(drawn, return_counts=True)
    return Pool(rows.astype(np.int64), (draws.log_expected(rows) - np.log(counts)).astype(np.float32))
