"""The live version's weights follow what is taken: learned by question, used by the next look-up, kept across a restart.

    weighing = Weighing(service, kept=LearnedFile(data / "weights.json")); weighing.learn(features, at, asker="u1"); weighing.save()

A version that goes live begins with two sets of weights, those that answered until then and those it was fitted with; one that is gone on
with, with what is kept of it and those.
"""

import logging
from collections.abc import Mapping

import msgspec

from encoders.blend import Blend
from freshet.service import Serving
from serving.sources import SOURCES
from storage.arrays import F64s
from storage.learned import Learned, LearnedStore
from trainers.live_blend import Leading

log = logging.getLogger(__name__)


class Weighing:
    """For the thread that steps the service. What the store of a cluster raises while it is away is raised."""

    def __init__(self, service: Serving, *, kept: LearnedStore | None = None) -> None:
        """Goes on from what is kept, if it is of the live version."""
        self._service, self._kept = service, kept
        self._of, self._saved = "", 0
        self._live: Leading | None = None
        current = service.current
        if current is not None:
            self._begin(current.live.version, current.live.blend)

    @property
    def cases(self) -> int:
        """Questions that the live version's weights were learned from."""
        current = self._service.current
        return self._live.cases if self._live is not None and current is not None and self._of == current.live.version else 0

    @property
    def told(self) -> Mapping[str, object] | None:
        """What each source weighs in answers now, and how many questions that was learned from; None without a model."""
        current = self._service.current
        if current is None:
            return None
        blend = current.live.blend
        return {"by_source": dict(zip(blend.sources, blend.weights.tolist(), strict=True)), "learned_from": self.cases}

    def learn(self, features: F64s, at: int, *, asker: str) -> None:
        """Take one question: log-scores (C, S) of `SOURCES` under the live version, and the place of what was taken."""
        current = self._service.current
        if current is None:
            return
        if self._live is None or self._of != current.live.version:
            self._begin(current.live.version, current.live.blend)
        assert self._live is not None, "just begun"
        self._live.learn(features, at, asker=asker)
        self._service.reweigh(self._live.blend)

    def save(self) -> None:
        """Write what was learned since the last time. An OSError is told, not raised: it is learned again."""
        if self._kept is None or self._live is None or self._live.cases == self._saved:
            return
        try:
            self._kept.write(Learned(self._of, self._live.cases, self._live.blend.to_json()))
        except OSError as error:
            log.warning("weights_not_saved at=%s error=%s", self._kept.where, error)
            return
        self._saved = self._live.cases

    def _begin(self, version: str, fitted: Blend) -> None:
        own, live = fitted.over(SOURCES), None
        stayed = self._live.blend if self._live is not None else None
        try:
            kept = self._kept.read() if self._kept else None
            if kept is not None and kept.version == version:
                live = Leading(own, stayed=Blend.from_json(kept.blend).over(SOURCES), cases=kept.cases)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            log.warning("weights_not_used at=%s error=%s", self._kept.where if self._kept else "", error)
        self._live = live or Leading(own, stayed=stayed)
        self._of, self._saved = version, self._live.cases
        self._service.reweigh(self._live.blend)
