"""The weights of a blend, learned from what is taken while it answers: sources age, lists fill, tastes turn between two trainings.

    live = Leading(version_blend, stayed=blend_before); live.learn(features, target, asker="u1"); live.blend

One step of gradient descent a question on the negative log-likelihood of what was taken, under a softmax of the blended scores over the
first hundred; no weight falls below 0. What was taken and is not among them teaches nothing: over all candidates likelihood moves weights
for what no answer shows (ADR 0029). The version's own weights are asked the same questions: once these are shown to rank better, what was
learned is dropped (`trainers/regret.py`). When a version goes live there are two sets of weights, its own and those that answered before,
which know what came while it was trained (ADR 0031); both learn, and what has ranked better lately answers. Ours.
"""

from typing import Final

import numpy as np

from encoders.base import F32s, F64s
from encoders.blend import Blend
from trainers.metrics import discounted_gain, mid_ranks
from trainers.regret import PLANNED, Regret

STEP: Final = 0.003
"""Of the gradient, by question (ADR 0029)."""
FIRST_MAX: Final = 100
"""Candidates that a question is about: those that the blend puts first."""
LATELY: Final = 200
"""Questions: what ranked better is told by a sum that forgets one part in so many with each."""
GRADIENT_MAX: Final = 10.0
"""One odd question moves no weight by more than STEP times this."""


class LiveBlend:
    """`blend` as it is now; `cases` it has learned from."""

    def __init__(self, fitted: Blend, *, learned: Blend | None = None, cases: int = 0) -> None:
        """From a version's own weights; `learned` goes on where another process left off. Raises ValueError where their sources differ."""
        if learned is not None and learned.sources != fitted.sources:
            raise ValueError(f"learned are weights of {learned.sources}, the version has {fitted.sources}")
        self.fitted, self.blend, self.cases = fitted, learned or fitted, cases
        self._least = np.minimum(fitted.weights, 0.0)
        self._regret = Regret()

    def learn(self, features: F32s | F64s, target: int, *, asker: str) -> None:
        """Take one question's log-scores (C, S) and the row of what was taken. What is not finite is passed over."""
        if not np.isfinite(features).all():
            return
        self.cases += 1
        scores = self.blend.score(features)
        if self._worse(scores, self.fitted.score(features), target, asker):
            self.blend = self.fitted
            return
        least = np.partition(scores, -FIRST_MAX)[-FIRST_MAX] if len(scores) > FIRST_MAX else -np.inf
        if scores[target] < least:
            return
        first = scores >= least
        shares = np.exp(scores[first] - scores.max())
        gradient = (shares / shares.sum()) @ features[first] - features[target]
        weights = np.maximum(self._least, self.blend.weights - STEP * np.clip(gradient, -GRADIENT_MAX, GRADIENT_MAX))
        if weights.any() and np.isfinite(weights).all():
            self.blend = Blend(self.fitted.sources, weights)

    def _worse(self, learned: F64s, fitted: F64s, target: int, asker: str) -> bool:
        """Whether it is shown that the version's own weights rank better; asked anew each so many cases, for either may age."""
        if self.cases % PLANNED == 0:
            self._regret = Regret()
        ranks = mid_ranks(np.stack([learned, fitted]), np.full(2, target))
        live, before = discounted_gain(ranks).tolist()
        if not self._regret.add(live=live, before=before, asker=asker):
            return False
        self._regret = Regret()
        return True


class Leading:
    """One or two sets of weights that learn from the same questions; `blend` is of the one that has ranked better lately."""

    def __init__(self, fitted: Blend, *, stayed: Blend | None = None, cases: int = 0) -> None:
        """A version's own weights, and beside them those that `stayed` from before and lead at first. Raises ValueError as `LiveBlend`."""
        own = LiveBlend(fitted)
        self._sets = [own] if stayed is None else [LiveBlend(fitted, learned=stayed), own]
        self._gains = np.zeros(len(self._sets))
        self._before, self._own = cases, own

    @property
    def blend(self) -> Blend:
        """As it is now."""
        return self._sets[int(self._gains.argmax())].blend

    @property
    def cases(self) -> int:
        """Questions learned from, those of before included."""
        return self._before + self._own.cases

    def learn(self, features: F32s | F64s, target: int, *, asker: str) -> None:
        """Take one question, as `LiveBlend.learn` does."""
        if len(self._sets) > 1 and np.isfinite(features).all():
            scores = np.stack([one.blend.score(features) for one in self._sets])
            self._gains += discounted_gain(mid_ranks(scores, np.full(len(scores), target))) - self._gains / LATELY
        for one in self._sets:
            one.learn(features, target, asker=asker)
