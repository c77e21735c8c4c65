"""Keeping a process of the cluster at the version that is live for all, and ready for the one that is proposed.

The trainer proposes; who refreshes fills the proposed generation's collection; who answers loads it and lets it stand in shadow; the
trainer then flips the one record, and everybody answers from what they have loaded. Nobody waits: until a version is whole here, the last
is used.

    following = Following(serving, registry, builds=lambda: True, whole=whole); following.step(now_ms=now_ms); beat(following)
"""

import logging
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from freshet.service import Loaded, Serving
from serving.shadow import Shadow, Shadowed
from storage.models import Damaged, Models
from storage.vectors import VectorsDamaged, VectorsLocked

log = logging.getLogger(__name__)
TOLD_MS: Final = 60_000
_UNUSABLE: Final = (Damaged, VectorsDamaged, VectorsLocked, OSError, ValueError, LookupError, msgspec.MsgspecError)
"""What a version raises that cannot be loaded now, pruned ones and files of another width included: told, and tried at the next step."""


class Proposals(Models, Protocol):
    """A registry in which a version may be proposed."""

    def candidate(self) -> str | None:
        """The version that is proposed, if one is."""


class Following:
    """For the thread that steps the serving. `builds` says now whether this process fills collections, `whole` of a version at a time
    whether anybody has filled its.
    """

    def __init__(
        self, serving: Serving, registry: Proposals, *, builds: Callable[[], bool], whole: Callable[[str, int], bool],
    ) -> None:  # fmt: skip
        self._serving, self._registry, self._builds, self._is_whole = serving, registry, builds, whole
        self._candidate: Loaded | None = None
        self._whole = False
        self._row = 0
        self._told_ms: int | None = None
        self.shadow: Shadow | None = None
        """In which a candidate stands before this process is ready for it; None where nobody is answered."""
        self.shadowed: Shadowed | None = None
        """What was seen of the candidate there."""
        self.built: str | None = None
        """The proposed version whose collection this process has filled."""

    @property
    def candidate(self) -> str | None:
        """The proposed version that this process is ready to answer from."""
        return self._loaded if self.shadow is None or self.shadowed is not None else None

    @property
    def _loaded(self) -> str | None:
        return self._candidate.live.version if self._candidate else None

    def step(self, *, now_ms: int) -> bool:
        """Flip to what is live, load what is proposed, embed its next items; whether there is more to embed."""
        for part in (self._flip, self._load):  # one that is unusable is no reason not to take the other
            try:
                part()
            except _UNUSABLE as error:
                self._tell(error, now_ms)
        more = self._build(now_ms)
        self._whole = self._loaded is not None and (self._whole or self._is_whole(self._loaded, now_ms))
        return more

    def stand(self, *, now_ms: int) -> None:
        """Let the candidate, once its collection is whole, rank a few of the look-ups that were answered. Raises what the shadow raises."""
        if self.shadow is None or self._candidate is None or not self._whole or self.shadowed is not None:
            return
        if self.shadow.candidate is None:
            self.shadow.begin(self._candidate.live)
        if self.shadow.stood(now_ms=now_ms):
            self.shadowed = self.shadow.end()

    def _flip(self) -> None:
        record, current = self._registry.live(), self._serving.current
        if record is None or (current is not None and current.live.version == record.version):
            return
        loaded = self._candidate if self._candidate and self._loaded == record.version else self._serving.load(record.version)
        self._serving.flip(loaded, back=record.previous is None)
        self._forget()

    def _load(self) -> None:
        name, current = self._registry.candidate(), self._serving.current
        wanted = name if current is None or current.live.version != name else None
        if self._candidate is not None and self._loaded != wanted:
            self._forget()
            self.built = None
            self._serving.drop_unused()
        if wanted is not None and self._candidate is None:
            self._candidate, self._row, self.built = self._serving.load(wanted), 0, None

    def _forget(self) -> None:
        self._candidate, self.shadowed, self._whole = None, None, False
        if self.shadow is not None and self.shadow.candidate is not None:
            self.shadow.end()

    def _build(self, now_ms: int) -> bool:
        """A head shares its generation's collection: nothing is to be filled."""
        candidate, current = self._candidate, self._serving.current
        if candidate is None or self.built == self._loaded or not self._builds():
            return False
        if current is None or current.live.generation != candidate.live.generation:
            self._row = self._serving.build(candidate, now_ms=now_ms, start=self._row)
            if self._row < len(self._serving.view.catalogue):
                return True
        self.built = self._loaded
        return False

    def _tell(self, error: Exception, now_ms: int) -> None:
        """Once a minute: the steps are many."""
        if self._told_ms is None or now_ms - self._told_ms >= TOLD_MS:
            self._told_ms = now_ms
            log.warning("version_unusable because=%s doing=answering from what is loaded, trying again", error)
