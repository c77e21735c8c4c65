"""How good the answers are while they are given: every figure of ranking, by system and by segment, over the newest cases.

A case is an event that is about to be applied and what the look-up would have answered just before (test, then learn).

    statistics = Online(); statistics.add(case); statistics.figures()["model"]["all"]["hit_at_10"]
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

import numpy as np

WINDOW: Final = 1000
"""A figure is the mean of about so many of its newest cases: of all until there are as many, then each new one moves it by 1/WINDOW."""
LISTS_MAX: Final = 1000
"""Coverage and novelty are those of the newest so many answers."""
NEW_USER_MAX: Final = 10
HEAVY_USER_MIN: Final = 100
NEW_ITEM_MAX: Final = 10
"""Segments: who has had fewer items than the first, or at least the second; what was engaged with less often than the third."""
TOP: Final = 10
MEASURES: Final = ("hit_at_10", "ndcg_at_10", "reciprocal_rank")
ALL: Final = "all"


@dataclass(frozen=True)
class Case:
    """One event's ranks by system (1 is best), who and what it was about, and what the first ten of the answer were.

    `had`: items of the user before this one. `engaged`: how often anybody had engaged with the item. `top`: rows of the answer;
    `shares`: the part each has of all engagements.
    """

    ranks: Mapping[str, int]
    had: int
    engaged: float
    top: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """Those it belongs to; `all` is one of them."""
        member = {
            "new_users": self.had < NEW_USER_MAX,
            "heavy_users": self.had >= HEAVY_USER_MIN,
            "new_items": self.engaged < NEW_ITEM_MAX,
        }
        return (ALL, *(name for name, is_one in member.items() if is_one))


class Summary(TypedDict):
    """How many cases there were, and what the newest come to."""

    cases: int
    coverage: float
    novelty_bits: float
    figures: dict[str, dict[str, dict[str, float]]]


@dataclass
class _Mean:
    cases: int = 0
    values: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEASURES, 0.0))

    def add(self, rank: int) -> None:
        self.cases += 1
        found = (float(rank <= TOP), float(rank <= TOP) / float(np.log2(rank + 1)), 1 / rank)
        for name, value in zip(MEASURES, found, strict=True):
            self.values[name] += (value - self.values[name]) / min(self.cases, WINDOW)


class Online:
    """Cases from one thread, figures for any."""

    def __init__(self) -> None:
        self.cases = 0
        self._means: dict[tuple[str, str], _Mean] = {}
        self._lists: deque[Case] = deque()
        self._shown: Counter[int] = Counter()
        self._lock = threading.RLock()

    def add(self, case: Case) -> None:
        """Take one case in. Raises ValueError for a rank below 1."""
        wrong = {name: rank for name, rank in case.ranks.items() if rank < 1}
        if wrong:
            raise ValueError(f"a rank is 1 or more: {wrong}")
        with self._lock:
            self.cases += 1
            for system, rank in case.ranks.items():
                for segment in case.segments:
                    self._means.setdefault((system, segment), _Mean()).add(rank)
            self._lists.append(case)
            self._shown.update(case.top)
            if len(self._lists) > LISTS_MAX:
                self._shown.subtract(self._lists.popleft().top)
                self._shown = +self._shown

    def figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """By system, segment and measure; `cases` says over how many."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for (system, segment), mean in self._means.items():
            found.setdefault(system, {})[segment] = {"cases": mean.cases, **mean.values}
        return found

    def summary(self, items: int) -> "Summary":
        """Everything, over a catalogue of so many items."""
        with self._lock:
            return Summary(cases=self.cases, coverage=self.coverage(items), novelty_bits=self.novelty(), figures=self.figures())

    def coverage(self, items: int) -> float:
        """The part of the catalogue's `items` that is in at least one of the newest answers' first ten."""
        return len(self._shown) / items if items else 0.0

    def novelty(self) -> float:
        """Bits: the mean of -log2 of the share of events an answered item has; higher is less popular. 0 without an answer."""
        shares = [share for case in self._lists for share in case.shares]
        return float(-np.log2(np.maximum(shares, 1e-12)).mean()) if shares else 0.0
