"""The thread that keeps a process of the cluster up to date: its view, its model, its share of the refreshing, its heartbeat.

pulse = Pulse(cluster_serving, name="api"); pulse.start(); ...; pulse.stop()
"""

import logging
import os
import threading
from dataclasses import asdict
from typing import Final

from freshet.clock import now_ms
from freshet.cluster import REDIS_ERRORS
from freshet.processes.naming import process_name
from freshet.processes.serving import AWAY, ClusterServing
from storage.health import Beat
from stream.collecting import collect_seldom

log = logging.getLogger(__name__)
PULSE_S: Final = 0.02
FOLLOW_MS: Final = 250
BEAT_MS: Final = 1000
AWAY_TOLD_MS: Final = 60_000
AWAY_S: Final = 1.0


class Pulse(threading.Thread):
    """Ends by `stop`, or by an error it keeps. A store that does not answer ends nothing: it is told once a minute and tried again."""

    def __init__(self, serving: ClusterServing, *, name: str) -> None:
        super().__init__(name="pulse", daemon=True)
        self._serving = serving
        self._process = process_name(name)
        self._stopping = threading.Event()
        self._followed_ms = self._beat_ms = 0
        self._told_ms: dict[str, int] = {}
        self.error: BaseException | None = None
        self.moved_ms = now_ms()
        """When the last round ended. One that waits for a store ends too: to start this process anew would not bring it back."""

    def run(self) -> None:
        """Round after round."""
        collect_seldom()
        try:
            while not self._stopping.is_set():
                self._stopping.wait(self._round())
        except Exception as error:  # the outer loop of this thread: it is told, and /healthz says so
            log.exception("pulse_stopped")
            self.error = error

    def stop(self) -> None:
        """Finish the round, say that this process is gone."""
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._serving.leave(self._beat(now_ms()))

    def _round(self) -> float:
        """Each part for itself: while the vectors' store is away the view is kept fresh, and the flip is seen that leaves a dropped one."""
        now, more, away = now_ms(), False, False
        for part in (self._say, self._follow, self._step):
            try:
                more |= part(now)
            except AWAY as error:
                away = True
                self._tell(error, now)
                if isinstance(error, REDIS_ERRORS):
                    self._serving.follower.distrust()
                    break  # all parts need it
        self.moved_ms = now_ms()
        return AWAY_S if away else 0.0 if more else PULSE_S

    def _say(self, now: int) -> bool:
        if now - self._beat_ms >= BEAT_MS:
            self._serving.health.beat(self._beat(now))
            self._serving.keep()
            self._beat_ms = now
        return False

    def _follow(self, now: int) -> bool:
        if now - self._followed_ms < FOLLOW_MS:
            return False
        more = self._serving.follow(now_ms=now)
        self._followed_ms = 0 if more else now
        return more

    def _step(self, now: int) -> bool:
        self._serving.step(now_ms=now)
        return False

    def _tell(self, error: Exception, now: int) -> None:
        """Once a minute of each kind. Only of the file system's errors the words: others may hold what an address was given with."""
        kind = type(error).__name__
        if now - self._told_ms.get(kind, 0) >= AWAY_TOLD_MS:
            self._told_ms[kind] = now
            log.error("store_away error=%s doing=trying again each second", f"{kind}: {error}" if isinstance(error, OSError) else kind)

    def _beat(self, now: int) -> Beat:
        serving, following = self._serving.serving, self._serving.following
        current = serving.current
        version, collection = (current.live.version, current.live.collection) if current else (None, None)
        number, shadow = serving.view.progress.as_of.number, asdict(following.shadowed) if following.shadowed else None
        asking = self._serving.asking
        fallen, drifted = (asking.fallen(version or ""), asking.drifted) if asking else ("", "")
        return Beat(
            self._process, os.getpid(), now, version, collection, number,
            candidate=following.candidate, built=following.built, shadow=shadow, fallen=fallen or None, drifted=drifted or None,
        )  # fmt: skip
