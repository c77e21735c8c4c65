"""How good a ranking is, and whether one is better than another: mid-ranks, rates at k, paired bootstrap.

ranks = mid_ranks(scores, targets); figures = summary(ranks); gain = paired_bootstrap(new, old, generator=generator)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import F32s, F64s, I64s, Ragged
from trainers import kernels

RESAMPLES = 2_000
RESAMPLE_CELLS_MAX = 2**22
DISTINCT_MAX = 64  # values that are resampled by how often each is drawn, instead of one by one
MISSED: Final = 2**62
"""The rank of what cannot be found: behind every item of any catalogue."""


def mid_ranks(scores: F32s | F64s, targets: I64s) -> I64s:
    """(B, C) scores, (B,) target columns -> (B,) ranks from 1: 1 + G + floor(E / 2).

    G candidates score above the target, E others equal it, so constant scores never win. NaN counts as minus infinity; equality is of
    unrounded scores. Columns that are no candidates must hold NaN or -inf, which the target must not.
    Source: protocols, section 1. Complexity B·C.
    """
    ranks: I64s = kernels.mid_ranks(scores, targets)
    return ranks


def mid_ranks_among(scores: F64s, targets: I64s, left_out: Ragged) -> I64s:
    """The same among the columns that are not left out, whose scores may be anything; `left_out` has B lists of distinct columns.

    A target that is left out itself is a miss: its rank is `MISSED`. Source: protocols, section 2.
    """
    ranks: I64s = kernels.mid_ranks_among(scores, targets, left_out.values, left_out.offsets, MISSED)
    return ranks


def hit_rate(ranks: I64s, k: int) -> F64s:
    """[rank <= k], one figure a case."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: I64s, k: int) -> F64s:
    """[rank <= k] / log2(rank + 1)."""
    found: F64s = (ranks <= k) / np.log2(ranks + 1.0)
    return found


def discounted_gain(ranks: I64s) -> F64s:
    """1 / log2(rank + 1), one figure a case: NDCG of one relevant item, without a cut, and so the least noisy of these."""
    gain: F64s = 1.0 / np.log2(ranks + 1.0)
    return gain


def reciprocal_rank(ranks: I64s, k: int | None = None) -> F64s:
    """1 / rank; with k, 0 beyond it."""
    found: F64s = 1.0 / ranks
    return found if k is None else found * (ranks <= k)


def summary(ranks: I64s) -> dict[str, float]:
    """HR@10, NDCG@10 and MRR; zeros when there is no case."""
    if not len(ranks):
        return {"HR@10": 0.0, "NDCG@10": 0.0, "MRR": 0.0}
    values = {"HR@10": hit_rate(ranks, 10), "NDCG@10": ndcg(ranks, 10), "MRR": reciprocal_rank(ranks)}
    return {name: float(value.mean()) for name, value in values.items()}


@dataclass(frozen=True)
class Gain:
    """Mean of the paired differences, and the interval that holds 95 % of its resampled means."""

    mean: float
    low: float
    high: float
    cases: int


def paired_bootstrap(new: F64s, old: F64s, *, generator: np.random.Generator, resamples: int = RESAMPLES) -> Gain:
    """How much better `new` is than `old` on the same cases (n,), by resampling cases with replacement.

    The interval is the percentile interval at 2.5 and 97.5 %. Raises ValueError on unpaired or no cases; NaN goes through to the result.
    """
    if new.shape != old.shape or not len(new):
        raise ValueError(f"a paired bootstrap needs the same cases, at least one: {new.shape} and {old.shape}")
    difference = new - old
    means = _resampled_means(difference, generator, resamples)
    low, high = np.quantile(means, [0.025, 0.975])
    return Gain(float(difference.mean()), float(low), float(high), len(difference))


def _resampled_means(values: F64s, generator: np.random.Generator, resamples: int) -> F64s:
    """The means of so many samples of all values, with replacement: (resamples,)."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= DISTINCT_MAX:  # hits differ by -1, 0 or 1: a mean depends on how often each is drawn, and that is one draw
        means: F64s = generator.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
        return means
    means = np.empty(resamples)
    step = max(1, RESAMPLE_CELLS_MAX // len(values))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = values[generator.integers(0, len(values), size=(rows, len(values)))].mean(axis=1)
    return means
