"""The synthetic world's planted structure: topics, tastes, followers, births and a drift, and what they make likely next.

Everything a perfect recommender would know. The chance of the next item is a known mixture, so the best possible hit
rate is known too (`freshet/world/events.py` measures it).

    nature = Nature.plant(shape, generator); chances = nature.chances(moment)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.arrays import Bools, F64s, I64s

FOLLOW, FOCUS, TASTE, POPULAR = 0.5, 0.3, 0.15, 0.05
"""Shares of the mixture: what follows the last item, the session's topic, the user's taste, and what everybody takes."""

FOLLOWER_WEIGHTS: Final = np.array([0.6, 0.25, 0.15])
QUALITY_EXPONENT: Final = 0.8
SAME_TOPIC_SHARE: Final = 0.8
TASTE_CONCENTRATION: Final = 0.25
TASTE_STEP: Final = 0.03
DRIFTING_USERS: Final = 0.5
DRIFTING_FOLLOWERS: Final = 0.4


@dataclass(frozen=True)
class Shape:
    """Sizes and times of a world: `births` items appear between a fifth of the span and its last twentieth."""

    users: int
    items: int
    topics: int
    births: int
    start_ms: int
    end_ms: int
    drift_ms: int


@dataclass(frozen=True)
class Moment:
    """What the next item depends on. `last` = -1 for none; `open` (I,) marks the items not had yet."""

    ts_ms: int
    last: int
    focus: int
    taste: F64s
    open: Bools


@dataclass(frozen=True)
class Nature:
    """The drawn structure: per item a topic, a quality (summing to 1 in its topic), a birth; followers before and after the drift."""

    shape: Shape
    topic: I64s  # (I,)
    quality: F64s  # (I,)
    popularity: F64s  # (I,)
    born_ms: I64s  # (I,)
    followers: I64s  # (2, I, 3)
    tastes: F64s  # (U, T)
    tastes_after: F64s  # (U, T)

    @staticmethod
    def plant(shape: Shape, generator: np.random.Generator) -> "Nature":
        """Draw everything the shape asks for."""
        topic = np.arange(shape.items) % shape.topics
        generator.shuffle(topic)
        quality = _qualities(topic, generator)
        tastes = generator.dirichlet(np.full(shape.topics, TASTE_CONCENTRATION), size=shape.users)
        drifts = generator.random(shape.users) < DRIFTING_USERS
        tastes_after = np.where(drifts[:, None], np.roll(tastes, max(1, shape.topics // 2), axis=1), tastes)
        popularity = generator.permutation(_zipf(shape.items))
        return Nature(shape, topic, quality, popularity, _births(shape, generator), _followers(topic, generator), tastes, tastes_after)

    def chances(self, moment: Moment) -> F64s:
        """The probability of each item being next, (I,); 0 for those had or not born, all 0 when nothing is left.

        p(i) ~ .5 follower(last, i) + .3 [topic(i) = focus] quality(i) + .15 taste(topic(i)) quality(i) + .05 popularity(i)
        """
        weight = self.quality * (TASTE * moment.taste)[self.topic]
        weight += FOCUS * self.quality * (self.topic == moment.focus)
        weight += POPULAR * self.popularity
        if moment.last >= 0:
            after = int(moment.ts_ms >= self.shape.drift_ms)
            weight[self.followers[after, moment.last]] += FOLLOW * FOLLOWER_WEIGHTS
        weight *= moment.open & (self.born_ms <= moment.ts_ms)
        total = weight.sum()
        return weight / total if total > 0 else weight

    def taste_at_first(self, user: int, ts_ms: int) -> F64s:
        """The taste a user starts from, before or after the drift, (T,)."""
        taste: F64s = (self.tastes_after if ts_ms >= self.shape.drift_ms else self.tastes)[user]
        return taste


def wander(taste: F64s, generator: np.random.Generator) -> F64s:
    """A taste one session later: a small step towards a random one, (T,)."""
    return (1 - TASTE_STEP) * taste + TASTE_STEP * generator.dirichlet(np.full(len(taste), TASTE_CONCENTRATION))


def _zipf(count: int) -> F64s:
    weights: F64s = 1 / np.arange(1, count + 1) ** QUALITY_EXPONENT
    shares: F64s = weights / weights.sum()
    return shares


def _qualities(topic: I64s, generator: np.random.Generator) -> F64s:
    quality = np.zeros(len(topic))
    for which in np.unique(topic):
        rows = np.flatnonzero(topic == which)
        quality[rows] = generator.permutation(_zipf(len(rows)))
    return quality


def _births(shape: Shape, generator: np.random.Generator) -> I64s:
    born = np.full(shape.items, shape.start_ms, dtype=np.int64)
    span = shape.end_ms - shape.start_ms
    rows = generator.choice(shape.items, size=shape.births, replace=False)
    born[rows] = shape.start_ms + (generator.uniform(0.2, 0.95, size=shape.births) * span).astype(np.int64)
    return born


def _followers(topic: I64s, generator: np.random.Generator) -> I64s:
    before = np.stack([_three_followers(row, topic, generator) for row in range(len(topic))])  # (I, 3)
    after = before.copy()
    for row in np.flatnonzero(generator.random(len(topic)) < DRIFTING_FOLLOWERS):
        after[row] = _three_followers(int(row), topic, generator)
    return np.stack([before, after])


def _three_followers(row: int, topic: I64s, generator: np.random.Generator) -> I64s:
    weights = np.where(topic == topic[row], SAME_TOPIC_SHARE / (topic == topic[row]).sum(), (1 - SAME_TOPIC_SHARE) / len(topic))
    weights[row] = 0
    return generator.choice(len(topic), size=len(FOLLOWER_WEIGHTS), replace=False, p=weights / weights.sum())
