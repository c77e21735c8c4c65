"""How much better one model is than another, valid at every look: a confidence sequence for the mean of paired differences.

    groups = by_asker(differences, askers)
    found = interval(groups, planned=4000); found.low; first_shown(groups, 0.0, planned=4000)

A bootstrap is for one look: asked after every event, one that means 2.5 % passes a tie many times as often. Here P(low > mean at
any look) <= alpha, and likewise for high: one may look whenever one likes, and again when more has come.

**The unit is an asker, not an event.** What one person does hangs together (a model suits them or does not), and a burst holds a
hundred events: taken for independent they promise more than there is. So an asker's differences are added up, and a look is made
after each asker's last event. Who comes back after they were counted counts as somebody else.

**The bet.** For a mean m let D_i = S_i - k_i m, S_i the sum of the i-th asker's k_i differences. If D_i lies about zero
symmetrically, given what came before, then 1 + tanh(lambda_i D_i) has mean 1, because tanh is odd, and is never negative: a capital
multiplied by it, asker by asker, reaches 1 / alpha at any time with a probability of at most alpha (Ville 1939). Where the truth is
below m the capital is smaller still, so what is tested is "at most m", and `low` is the largest m that was ever refuted. That a capital
multiplied by 1 + an odd function tests symmetry: Ramdas, Ruf, Larsson, Koolen 2020, "Admissible anytime-valid sequential inference
must rely on nonnegative martingales", its section on symmetry. 1 + tanh y = exp(y) / cosh y is at least exp(y - y^2 / 2), which is
de la Pena's (1999, "A general class of exponential inequalities for martingales and ratios", Lemma 6.1). How much is bet is the
predictable plug-in for a fixed sample size of Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
section 3: lambda_i = sqrt(2 log(1 / alpha) / (n v_i)), n the events planned for, v_i what one event varied before the i-th asker. Any
function of the past would do: a poor one costs power, not validity.

A true tie (either model could have been the other) is symmetric to the letter; skewed differences are so only in the sum of many.
Their bet on bounded differences needs no symmetry, but independent events; with askers as the unit it must allow for
sums of a hundred, and shows nothing. What each does under a tie and what it costs: docs/adr/0018-the-gate-looks-at-any-time.md.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import F64s, I64s

ALPHA: Final = 0.05
FIRST_VARIANCE: Final = 0.25
"""What one event is taken to have varied before any did: that of a difference as often 1/2 as -1/2."""
_HALVINGS: Final = 40


@dataclass(frozen=True)
class Groups:
    """Askers in the order of their last events: the sums (a,) of their differences, and how many (a,) those were."""

    sums: F64s
    sizes: I64s

    def __len__(self) -> int:
        return len(self.sums)


@dataclass(frozen=True)
class Interval:
    """The mean difference of an event, what it is at least and at most after all looks so far; each of the two holds with 1 - alpha."""

    mean: float
    low: float
    high: float
    events: int
    askers: int


def askers_min(alpha: float = ALPHA) -> int:
    """Fewer askers show nothing whatever they did: each doubles the capital at most."""
    return math.ceil(math.log2(1 / alpha))


def by_asker(differences: F64s, askers: I64s) -> Groups:
    """Differences (n,) in the order of events, and who asked (n,) -> one group per asker. Raises ValueError on unpaired ones."""
    if differences.shape != askers.shape:
        raise ValueError(f"each difference needs its asker: {differences.shape} differences, {askers.shape} askers")
    _, from_end, who = np.unique(askers[::-1], return_index=True, return_inverse=True)
    order = np.argsort(-from_end)
    sums = np.bincount(who, differences[::-1], len(from_end)).astype(np.float64)  # without a row it gives integers
    return Groups(sums[order], np.bincount(who, minlength=len(from_end))[order].astype(np.int64))


def first_shown(groups: Groups, above: float, *, planned: int, alpha: float = ALPHA) -> int | None:
    """How many events had been seen at the first look at which the mean was shown to exceed `above`; None at no look so far.

    planned: the events at which the test is to be sharpest, chosen before the first is seen. More askers at the end leave earlier
    looks as they are. Complexity: linear in the askers. Raises ValueError for an alpha that is no probability.
    """
    looks = np.flatnonzero(_capital(groups, above, _bets(groups, planned, alpha)) >= math.log(1 / alpha))
    return int(groups.sizes[: looks[0] + 1].sum()) if len(looks) else None


def interval(groups: Groups, *, planned: int, alpha: float = ALPHA) -> Interval:
    """What all looks together leave of the mean, within [-1, 1], to 1e-11; both sides at once hold with 1 - 2 alpha.

    Arguments and errors as of `first_shown`. Complexity: linear in the askers.
    """
    events = int(groups.sizes.sum())
    mirrored = Groups(-groups.sums, groups.sizes)
    low, high = (_least(side, planned, alpha) for side in (groups, mirrored))
    return Interval(float(groups.sums.sum()) / max(1, events), low, -high, events, len(groups))


def _bets(groups: Groups, planned: int, alpha: float) -> F64s:
    """lambda (a,), each from what came before it."""
    if not 0 < alpha < 1 or planned < 1:
        raise ValueError(f"alpha must lie between 0 and 1, and planned be at least 1: {alpha}, {planned}")
    before = np.cumsum(groups.sizes) - groups.sizes
    squares = np.cumsum(groups.sums**2) - groups.sums**2
    variance = (FIRST_VARIANCE + squares) / (1 + before)
    bets: F64s = np.sqrt(2 * math.log(1 / alpha) / (np.maximum(planned, before) * variance))
    return bets


def _capital(groups: Groups, mean: float, bets: F64s) -> F64s:
    """log of the capital (a,) after each asker, against "at most `mean`": it falls with `mean`."""
    capital: F64s = np.cumsum(math.log(2) - np.logaddexp(0.0, -2 * bets * (groups.sums - groups.sizes * mean)))
    return capital


def _least(groups: Groups, planned: int, alpha: float) -> float:
    """The largest mean that was refuted at some look, by halving; -1 if none was."""
    bets, wanted = _bets(groups, planned, alpha), math.log(1 / alpha)
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = bool((_capital(groups, middle, bets) >= wanted).any())
        low, high = (middle, high) if refuted else (low, middle)
    return low
