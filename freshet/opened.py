"""A data folder that this process has opened itself, as a command needs it.

with Engine(settings) as engine, opened(engine) as site: print(site.recommend("u1", k=10))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from freshet.clock import now_ms
from freshet.engine import Engine
from freshet.server import status
from freshet.service import Service
from freshet.versions import described
from storage.log import Entry, Position
from stream.delivery import Appending
from stream.ingest import EVENTS
from stream.producer import Producer


class LocalSite:
    """The folder itself, opened by this process."""

    def __init__(self, service: Service) -> None:
        self._service, self._engine = service, service.engine

    def producer(self) -> Producer:
        """One that routes as the folder does."""
        return Producer(Appending(self.append, self._engine.shape.partitions))

    def append(self, entries: Sequence[Entry]) -> list[Position]:
        """Append to the log."""
        return self._engine.log.append(EVENTS, entries, now_ms=now_ms())

    def append_entities(self, bodies: Sequence[bytes]) -> None:
        """Append to the log."""
        self._engine.append_entities(bodies, now_ms=now_ms())

    def recommend(self, user_id: str, k: int) -> dict[str, Any]:
        """Look up in this process."""
        answer = self._service.lookup.recommend(user_id, k=k, now_ms=now_ms())
        return dict(msgspec.to_builtins(answer))

    def status(self) -> dict[str, Any]:
        """Read from the stores."""
        return dict(status(self._service))

    def models(self) -> dict[str, Any]:
        """Read from the registry."""
        return described(self._service.registry)

    def roll_back(self) -> str:
        """In this process: nobody serves from the folder."""
        return self._service.roll_back(now_ms=now_ms())

    def settle(self) -> None:
        """Apply what is pending, refresh what is dirty."""
        self._engine.drain(now_ms=now_ms())
        while self._service.targets and self._service.refresh(now_ms=now_ms()).looked_at:
            pass


@contextmanager
def opened(engine: Engine) -> Iterator[LocalSite]:
    """Everything that was appended is applied first."""
    service = Service(engine)
    try:
        engine.drain(now_ms=now_ms())
        yield LocalSite(service)
    finally:
        service.close()
