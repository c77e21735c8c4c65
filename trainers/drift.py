"""Whether the live model does worse than it used to: a window over its outcomes that shrinks when what is new differs from what is old.

    drift = Drift(); reason = drift.update(gain)      # "" = nothing to tell

Source: Bifet and Gavalda 2007, Learning from Time-Changing Data with Adaptive Windowing (ADWIN), as the library river has it.
"""

from typing import Any, Final

CONFIDENCE: Final = 0.002
"""ADWIN's delta: how often at most a cut is made where nothing has changed."""


class Drift:
    """Fed one outcome a case, between 0 and 1, higher is better. A rise is no drift: the window forgets the old all the same."""

    def __init__(self) -> None:
        from river.drift import ADWIN  # takes a second and a half to load, and few processes look for a drift

        self._window: Any = ADWIN(delta=CONFIDENCE)  # type: ignore[no-untyped-call]  # river has types for some

    @property
    def mean(self) -> float:
        """Of the outcomes since the last change."""
        return float(self._window.estimation)

    def update(self, outcome: float) -> str:
        """Take one outcome in. In words by how much the mean fell when it did; else empty."""
        before = self.mean
        self._window.update(outcome)
        if not self._window.drift_detected or self.mean >= before:
            return ""
        return f"the mean outcome fell from {before:.4f} to {self.mean:.4f}"
