"""What an api process and a refresher have in common: a follower of the workers, a model, vectors, and a share of the refreshing.

Vectors are on a Qdrant server, which refreshers write; without one the single api process refreshes and keeps them in its
own data folder.

    with cluster_serving(settings, process="refresher-1", refreshes=True) as site: site.step(now_ms=now_ms)
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import grpc  # type: ignore[import-untyped]  # it has none
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from freshet.cluster import REDIS_ERRORS, Services, ServiceUnreachable, services, store_of
from freshet.engine import locked_folder
from freshet.learning.asking import Asking
from freshet.processes.follower import Follower
from freshet.processes.following import Following
from freshet.service import Serving, Stores
from freshet.settings import Settings
from storage.changes_redis import ChangeFeed
from storage.health import Beat, Beats
from storage.health_redis import RedisHealth
from storage.leases_redis import LEASE_MS, Leases
from storage.models_redis import RedisRegistry
from storage.vectors import Collections
from storage.vectors_edge import VectorFolder
from storage.vectors_local import VectorServer
from stream.tailing import Tail

log = logging.getLogger(__name__)
REFRESHER: Final = "refresher"
ALIVE_MS: Final = 15_000
IDLE_TOLD_MS: Final = 60_000
QDRANT_S: Final = 5
"""A call that takes longer counts as not answered: without a bound a server that hangs would hold a process for ever."""
QDRANT_ERRORS: Final = (ResponseHandlingException, UnexpectedResponse, QdrantException, grpc.RpcError, ConnectionError)
AWAY: Final = (*REDIS_ERRORS, *QDRANT_ERRORS, OSError)
"""What is raised when a store does not answer for a while, or has no room."""


@dataclass
class ClusterServing:
    """One process's. `leases` is None where it does not refresh; `dirty` is how many items waited for their vector when last counted."""

    services: Services
    follower: Follower
    serving: Serving
    following: Following
    health: Beats
    leases: Leases | None
    dirty: int = 0
    tail: Tail | None = None
    asking: Asking | None = None
    """Where somebody is answered: an event that has just been published is ranked, most likely before it is applied, and learned from."""
    _leased_ms: int | None = None
    _counted_ms: int = 0
    _idle_ms: int = 0
    _unclaimed: bool = False

    def __post_init__(self) -> None:
        if self.leases is not None:
            self.serving.refresher.partitions = []  # none is this process's before its first lease

    def step(self, *, now_ms: int) -> None:
        """Take what changed; refresh what is this process's to refresh."""
        if self.leases is not None:
            if self._leased_ms is None or now_ms - self._leased_ms >= LEASE_MS // 3:
                self._lease(self.leases, now_ms)
                self._leased_ms = now_ms  # last: what did not answer is asked again with the next step
            if now_ms - self._counted_ms >= LEASE_MS:
                self._counted_ms, self.dirty = now_ms, self.serving.refresher.pending()
        self._ask(now_ms)
        self.serving.step(now_ms=now_ms)
        self.following.stand(now_ms=now_ms)

    def follow(self, *, now_ms: int) -> bool:
        """Flip, load, build: whether there is more to build."""
        return self.following.step(now_ms=now_ms)

    def keep(self) -> None:
        """Have others know the weights learned here."""
        if self.asking is not None:
            self.asking.weighing.save()

    def leave(self, beat: Beat) -> None:
        """A clean end: others take over at once. With Redis away they do when this process's leases run out."""
        with suppress(*REDIS_ERRORS):
            self.keep()
            if self.leases is not None:
                self.leases.release()
            self.health.forget(beat)

    def _ask(self, now_ms: int) -> None:
        """What is measured is never worth stopping for; a store that is away is told as elsewhere."""
        if self.asking is None or self.tail is None:
            return
        try:
            self.asking.before(self.tail.take(), now_ms=now_ms)
        except AWAY:
            raise
        except Exception:  # whatever it is: answers go on, and it is told once
            log.exception("online_measuring_stopped")
            self.asking = None

    def _lease(self, leases: Leases, now_ms: int) -> None:
        """A fair share of the node partitions; what is new is refreshed under an epoch above all that were.

        Its items are looked through: who held them may have gone before it flipped to what is live now.
        """
        partitions = self.follower.shape.partitions
        others = [beat for beat in self.health.alive(now_ms, within_ms=ALIVE_MS) if beat.process.startswith(REFRESHER)]
        fresh = leases.hold(range(partitions), share=-(-partitions // max(1, len(others))))
        refresher, current = self.serving.refresher, self.serving.current
        self._unclaimed |= bool(fresh)
        if self._unclaimed:
            refresher.claim(self.follower.state.claim(REFRESHER, 0, REFRESHER).epoch)
        refresher.partitions = sorted(leases.held)
        if self._unclaimed and current is not None:
            refresher.mark_all(current.live.generation)
        self._unclaimed = False  # reached only when Redis has answered throughout
        if not others and not leases.held and now_ms - self._idle_ms >= IDLE_TOLD_MS:
            self._idle_ms = now_ms
            log.warning("not_refreshing because=another process does doing=waiting; without a Qdrant server only one api process refreshes")


@contextmanager
def cluster_serving(settings: Settings, *, process: str, refreshes: bool) -> Iterator[ClusterServing]:
    """Open everything. Raises `ServiceUnreachable`, `ShapeChanged`, `FolderBusy` (a second process on the same data folder)."""
    with services(settings) as site, ExitStack() as held:
        vectors = _vectors(settings, held)
        refreshing = refreshes or not settings.qdrant
        health = RedisHealth(site.client, site.prefix)
        registry = RedisRegistry(site.client, store_of(settings, "models"), site.prefix, keep_max=settings.versions_max)
        feed = ChangeFeed(site.client, partitions=site.shape.partitions, prefix=site.prefix)
        follower = Follower(settings, site.shape, site.state, feed, keeps_sessions=not refreshes)
        leases = Leases(site.client, REFRESHER, owner=f"{process}.{os.getpid()}", prefix=site.prefix) if refreshing else None

        def in_use(collection: str) -> bool:
            return any(beat.collection == collection for beat in health.read())

        try:
            serving = Serving(follower, Stores(registry, vectors, refreshing, in_use))
        except QDRANT_ERRORS as error:
            raise _qdrant_told(settings, error) from error
        held.callback(serving.close)
        following = Following(serving, registry, builds=lambda: leases is not None and 0 in leases.held, whole=filled(health))
        yield ClusterServing(site, follower, serving, following, health, leases)


def filled(health: Beats) -> Callable[[str, int], bool]:
    """Whether a living process has filled a version's collection, at a time."""
    return lambda version, now_ms: any(beat.built == version for beat in health.alive(now_ms, within_ms=ALIVE_MS))


def _vectors(settings: Settings, held: ExitStack) -> Collections:
    if not settings.qdrant:
        held.enter_context(locked_folder(settings.data))
        folder = VectorFolder(settings.data / "vectors")
        held.callback(folder.close)
        return folder
    client = QdrantClient(settings.qdrant, api_key=settings.qdrant_key.get_secret_value() or None, prefer_grpc=True, timeout=QDRANT_S)
    held.callback(client.close)
    try:
        client.get_collections()
    except QDRANT_ERRORS as error:
        raise _qdrant_told(settings, error) from error
    return VectorServer(client)


def _qdrant_told(settings: Settings, error: Exception) -> ServiceUnreachable:
    return ServiceUnreachable(f"Qdrant at {settings.qdrant} does not answer ({type(error).__name__}): is it up, is the key right?")
