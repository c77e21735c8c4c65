"""Whether what went live does worse than what it replaced: paired outcomes of the same look-ups since the flip, looked at as they come.

    regret = Regret(); reason = regret.add(live=.3, before=.5, asker="u1")      # "" = not shown so far

It is the gate's own test (`trainers/anytime.py`) the other way round, so it may look for as long as it likes: a version that is as good as
its predecessor is called worse with a probability of at most alpha over all looks together.
"""

from typing import Final

import numpy as np

from trainers.anytime import ALPHA, Groups, by_asker, first_shown, interval

LOOK_EVERY: Final = 50
"""Cases between two looks. Who asks in one such stretch is one asker in it, so that what was looked at stays as it was."""
PLANNED: Final = 2000
"""Cases at which the test is sharpest: some minutes of a busy stream at five a second."""
CASES_MAX: Final = 20_000
"""Then it is over: who was not worse by then has held."""


class Regret:
    """Of one flip; begin another for the next."""

    def __init__(self) -> None:
        self._differences: list[float] = []
        self._askers: list[int] = []
        self._numbers: dict[str, int] = {}
        self._asked = 0

    def add(self, *, live: float, before: float, asker: str) -> str:
        """Take one look-up's outcomes (0 to 1, higher is better). In words by how much the live version is worse once that is shown."""
        if len(self._differences) >= CASES_MAX:
            return ""
        if asker not in self._numbers:
            self._numbers[asker], self._asked = self._asked, self._asked + 1
        self._differences.append(live - before)
        self._askers.append(self._numbers[asker])
        if len(self._differences) % LOOK_EVERY:
            return ""
        self._numbers.clear()
        groups = by_asker(np.array(self._differences), np.array(self._askers))
        if first_shown(Groups(-groups.sums, groups.sizes), 0.0, planned=PLANNED) is None:
            return ""
        found = interval(groups, planned=PLANNED)
        return (
            f"it does worse: {found.mean:+.4f} ({100 * (1 - ALPHA):g} % at any look: {found.low:+.4f} to {found.high:+.4f}) "
            f"over {found.events} look-ups since it went live"
        )
