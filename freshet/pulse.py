"""The thread that keeps a process of the cluster up to date: its view, its model, its share of the refreshing, its heartbeat.

pulse = Pulse(cluster_serving, name="api"); pulse.start(); ...; pulse.stop()
"""

import logging
import os
import re
import socket
import threading
from typing import Final

from freshet.clock import now_ms
from freshet.cluster_serving import ClusterServing
from storage.health import Beat

log = logging.getLogger(__name__)
PULSE_S: Final = 0.025
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
        self._followed_ms = self._beat_ms = self._away_ms = 0
        self.error: BaseException | None = None
        self.moved_ms = now_ms()

    def run(self) -> None:
        """Round after round."""
        try:
            while not self._stopping.is_set():
                pause = self._round_or_away()
                self._stopping.wait(pause)
        except Exception as error:  # the outer loop of this thread: it is told, and /healthz says so
            log.exception("pulse_stopped")
            self.error = error

    def stop(self) -> None:
        """Finish the round, say that this process is gone."""
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._serving.leave(self._beat(now_ms()))

    def _round_or_away(self) -> float:
        try:
            return self._round()
        except self._serving.away as error:
            now = now_ms()
            if now - self._away_ms >= AWAY_TOLD_MS:
                self._away_ms = now
                log.error("store_away error=%s doing=trying again each second", type(error).__name__)
            return AWAY_S

    def _round(self) -> float:
        now = now_ms()
        self._serving.step(now_ms=now)
        more = False
        if now - self._followed_ms >= FOLLOW_MS:
            more = self._serving.follow(now_ms=now)
            self._followed_ms = 0 if more else now
        if now - self._beat_ms >= BEAT_MS:
            self._beat_ms = now
            self._serving.health.beat(self._beat(now))
        self.moved_ms = now
        return 0.0 if more else PULSE_S

    def _beat(self, now: int) -> Beat:
        serving, following = self._serving.serving, self._serving.following
        current = serving.current
        version, collection = (current.live.version, current.live.collection) if current else (None, None)
        number = serving.view.progress.as_of.number
        return Beat(self._process, os.getpid(), now, version, collection, number, candidate=following.candidate, built=following.built)


def process_name(kind: str) -> str:
    """Unlike that of another machine: process ids are only told apart within one.

    >>> process_name("api").startswith("api-")
    True
    """
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_-]', '-', socket.gethostname())}"[:64]
