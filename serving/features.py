"""Masses and logits to log-scores over one set of candidates: the columns that a blend weighs.

A column is a smoothed log-probability, so that a weighted sum of columns is a product of experts and a source that has
nothing to say (a cold user, no model yet) says the same of everyone and changes no order.

    features = np.stack([log_softmax(logits), log_shares(mass)], axis=1)      # (C, S)
"""

from typing import Final

import numpy as np

from serving.kernels import shares
from storage.arrays import F64s

EPSILON: Final = 0.1
"""What all candidates together are given beside a source's own mass: a constant, part of every fitted blend.

On MovieLens-100K 0.1, 0.01 and 0.001 rank alike when ranks are optimised; fitted by likelihood 0.1 ranks best, because a
lower floor makes the fit fear the item a sparse source does not name.
"""
_MASS_MIN: Final = 1e-290
_MASS_MAX: Final = 1e290


def log_shares(mass: F64s) -> F64s:
    """log(eps / C + share), share = mass over the sum of all candidates' masses (C,) or (S, C).

    What is not a positive number of ordinary size (NaN, infinite, above 1e290, below 1e-290) counts as 0. Where a source
    has no mass at all the column is log(eps / C) throughout.
    """
    columns = shares(np.atleast_2d(mass), EPSILON, _MASS_MIN, _MASS_MAX)
    logs: F64s = np.log(columns, out=columns).reshape(mass.shape)
    return logs


def log_softmax(logits: F64s) -> F64s:
    """Logits minus their logsumexp (C,). What is not finite counts as the lowest that is; nothing finite: -log C for all."""
    finite = np.isfinite(logits)
    if not finite.all():
        lowest = logits[finite].min() if finite.any() else 0.0
        logits = np.where(finite, logits, lowest)
    if len(logits) == 0:
        return logits
    top = logits.max()
    column: F64s = logits - (top + np.log(np.exp(logits - top).sum()))
    return column


def lifts(features: F64s, weights: F64s, picked: F64s) -> F64s:
    """How much of what lifts each picked candidate above the least is each source's work: rows (P, S) that sum to 1.

    A source lifts by weight * (column - the column's lowest over all candidates); pushing down counts as 0.
    """
    if len(picked) == 0:
        return np.zeros((0, len(weights)))
    lift = np.maximum((picked - features.min(axis=0)) * weights, 0.0)
    total = lift.sum(axis=1, keepdims=True)
    return np.where(total > 0, lift / np.where(total > 0, total, 1.0), 1.0 / max(1, len(weights)))
