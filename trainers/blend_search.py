"""Sharpening a blend: from the likelihood's weights to those that rank what was taken highest.

The likelihood of `trainers/blend.py` is convex but answers another question: it fears the rare item that a source gave no
mass at all more than a middling rank, and so trusts sparse sources too little. A few weights can be searched directly.

    blend = sharpen(cases, fit_blend(cases, prior))
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from encoders.base import F32s, F64s, I64s
from encoders.blend import Blend
from trainers.blend import Case
from trainers.metrics import discounted_gain

STEPS: Final = (3.0, 1.8, 1.35, 1.15)
"""Each round multiplies and divides every weight by its step, and tries 0 and a tenth of the sum."""
GAIN_MIN: Final = 1e-5


def sharpen(cases: Sequence[Case], start: Blend) -> Blend:
    """Coordinate search for the weights with the highest mean of 1 / log2(1 + mid-rank); never below where it starts.

    Deterministic. Only weights' ratios matter to a ranking; the sum of the start is kept. No cases: the start.
    About 20 · S passes over the cases: 1 s for 1,500 cases of 1,700 candidates.
    """
    if not cases:
        return start
    features, targets = _padded(cases)
    weights = start.weights.copy()
    best = _quality(features, targets, weights)
    for step in STEPS:
        for source in range(len(weights)):
            for value in (0.0, weights[source] / step, weights[source] * step, 0.1 * weights.sum()):
                tried = weights.copy()
                tried[source] = value
                quality = _quality(features, targets, tried)
                if quality > best + GAIN_MIN:
                    best, weights = quality, tried
    scale = start.weights.sum() / weights.sum() if weights.sum() > 0 else 1.0
    return Blend(start.sources, weights * scale)


def _padded(cases: Sequence[Case]) -> tuple[F32s, I64s]:
    """Cases side by side: (n, C, S), absent candidates below every score, and the targets (n,)."""
    width, sources = max(len(case.features) for case in cases), cases[0].features.shape[1]
    features = np.full((len(cases), width, sources), -1e9, dtype=np.float32)
    for n, case in enumerate(cases):
        features[n, : len(case.features)] = case.features
    return features, np.array([case.target for case in cases], dtype=np.int64)


def _quality(features: F32s, targets: I64s, weights: F64s) -> float:
    scores = features @ weights.astype(np.float32)  # (n, C)
    target = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks = 1 + (scores > target).sum(axis=1) + ((scores == target).sum(axis=1) - 1) // 2
    return float(discounted_gain(ranks).mean())
