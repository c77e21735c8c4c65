"""Fitting a blend: the weights under which what users took next stands out most among what was retrieved for them.

blend = fit_blend(cases, Blend(("neural", "neighbours", "popular"), live_weights), l2=1e-3)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from encoders.base import F64s, I64s
from encoders.blend import Blend


@dataclass(frozen=True)
class Case:
    """One question: log-scores (C, S) of its candidates, a column per source, and the row of the one that was taken."""

    features: F64s
    target: int


@dataclass(frozen=True)
class Stacked:
    """Cases end to end: features (ΣC, S), where each begins, and the places of what was taken."""

    features: F64s
    starts: I64s
    lengths: I64s
    taken: I64s

    @classmethod
    def of(cls, cases: Sequence[Case], sources: int) -> "Stacked":
        """Raises ValueError on a wrong number of columns, a target that is no row, or a score that is not finite."""
        for number, case in enumerate(cases):
            if case.features.ndim != 2 or case.features.shape[1] != sources:
                raise ValueError(f"case {number} has features {case.features.shape}, but there are {sources} sources")
            if not 0 <= case.target < len(case.features):
                raise ValueError(
                    f"case {number} took row {case.target} of {len(case.features)} candidates; leave out what was not retrieved"
                )
        lengths = np.array([len(case.features) for case in cases], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        features = np.concatenate([case.features for case in cases]).astype(np.float64)
        if not np.isfinite(features).all():
            raise ValueError("a score is NaN or infinite; sources must give log(eps + share) or a scaled cosine")
        return cls(features, starts, lengths, starts + np.array([case.target for case in cases], dtype=np.int64))

    def loss(self, weights: F64s) -> tuple[float, F64s]:
        """Mean negative log-likelihood of what was taken under softmax(features @ weights) per case, and its gradient (S,)."""
        scores = self.features @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, self.starts), self.lengths)
        odds = np.exp(scores)
        sums = np.add.reduceat(odds, self.starts)
        chances = odds / np.repeat(sums, self.lengths)
        gradient = chances @ self.features - self.features[self.taken].sum(axis=0)
        return float((np.log(sums) - scores[self.taken]).mean()), gradient / len(self.starts)


def fit_blend(cases: Sequence[Case], prior: Blend, *, l2: float = 1e-3, non_negative: bool = True) -> Blend:
    """argmin_w mean_case( log Σ_c e^{f_c·w} - f_taken·w ) + l2/2 · |w - prior|².

    Convex, so deterministic and, with a small l2, never worse on its cases than any one source at any scale. No cases: the prior.
    `non_negative` keeps a source from counting against what it retrieves. Complexity per iteration: candidates x sources.
    """
    if not cases:
        return prior
    stacked = Stacked.of(cases, len(prior.sources))

    def penalised(weights: F64s) -> tuple[float, F64s]:
        loss, gradient = stacked.loss(weights)
        away = weights - prior.weights
        return loss + 0.5 * l2 * float(away @ away), gradient + l2 * away

    start = np.maximum(prior.weights, 0.0) if non_negative else prior.weights
    bounds = [(0.0 if non_negative else None, None)] * len(prior.sources)
    found = minimize(penalised, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8})
    return Blend(prior.sources, np.asarray(found.x, dtype=np.float64))


def blend_loss(cases: Sequence[Case], blend: Blend) -> float:
    """The mean negative log-likelihood `fit_blend` brings down, without the prior."""
    return Stacked.of(cases, len(blend.sources)).loss(blend.weights)[0]
