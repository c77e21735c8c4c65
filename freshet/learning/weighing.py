"""The live version's weights follow what is taken: learned by question, used by the next look-up, kept across a restart.

    weighing = Weighing(service, file=data / "weights.json"); weighing.learn(features, at, asker="u1"); weighing.save()

A version that goes live begins with the weights it was fitted with; so does one that is gone back to.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from encoders.blend import Blend
from freshet.service import Serving
from serving.sources import SOURCES
from storage.arrays import F64s
from storage.files import write_file
from trainers.live_blend import LiveBlend

log = logging.getLogger(__name__)


class Kept(msgspec.Struct):
    """The file's content: what was learned for which version."""

    version: str
    cases: int
    blend: str


class Weighing:
    """For the thread that steps the service."""

    def __init__(self, service: Serving, *, file: Path | None = None) -> None:
        """Goes on from the file, if it is of the live version."""
        self._service, self._file = service, file
        self._of, self._saved = "", 0
        self._live: LiveBlend | None = None
        kept = self._read()
        current = service.current
        if kept is not None and current is not None and kept.version == current.live.version:
            try:
                self._begin(current.live.version, current.live.blend, kept)
            except ValueError as error:
                log.warning("weights_not_used file=%s error=%s", file, error)

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
        if self._file is None or self._live is None or self._live.cases == self._saved:
            return
        kept = Kept(self._of, self._live.cases, self._live.blend.to_json())
        try:
            write_file(self._file, msgspec.json.encode(kept), durable=False)
        except OSError as error:
            log.warning("weights_not_saved file=%s error=%s", self._file, error)
            return
        self._saved = self._live.cases

    def _begin(self, version: str, fitted: Blend, kept: Kept | None = None) -> None:
        learned = Blend.from_json(kept.blend).over(SOURCES) if kept else None
        self._live = LiveBlend(fitted.over(SOURCES), learned=learned, cases=kept.cases if kept else 0)
        self._of, self._saved = version, self._live.cases
        self._service.reweigh(self._live.blend)

    def _read(self) -> Kept | None:
        if self._file is None or not self._file.exists():
            return None
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("weights_not_read file=%s error=%s", self._file, error)
            return None
