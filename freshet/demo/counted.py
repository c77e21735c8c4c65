"""The counting baselines' side of the contest: each is asked first and learns afterwards, by user.

counted = Counted(num_items); ranks = counted.ranks("u1", row); counted.learn("u1", row)
"""

from typing import Final

import numpy as np

from storage.arrays import I64s
from trainers.baselines import Baseline, Popular, RecentPopular, seq_rules
from trainers.metrics import mid_ranks

BASELINES: Final = ("popular", "recent", "cooccurrence")


class Counted:
    """`BASELINES` over items 0..num_items - 1, and what each user has had."""

    def __init__(self, num_items: int) -> None:
        self._baselines: tuple[Baseline, ...] = (Popular(num_items), RecentPopular(num_items), seq_rules(num_items))
        self._had: dict[str, dict[int, None]] = {}

    def ranks(self, user_id: str, row: int) -> list[int]:
        """The mid-rank of an item among those the user has not had, by baseline."""
        history = self._history(user_id)
        scores = np.stack([baseline.scores(history) for baseline in self._baselines])
        scores[:, history] = -np.inf
        return mid_ranks(scores, np.full(len(scores), row)).tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def learn(self, user_id: str, row: int) -> None:
        """That a user took an item for the first time."""
        history = self._history(user_id)
        for baseline in self._baselines:
            baseline.learn(history, row)
        self._had.setdefault(user_id, {})[row] = None

    def _history(self, user_id: str) -> I64s:
        """Newest first."""
        had = self._had.get(user_id, {})
        return np.fromiter(reversed(had), np.int64, len(had))
