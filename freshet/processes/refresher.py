"""`freshet refresher`: fills and refreshes the collections of a Qdrant server; several share the node partitions.

run_refresher(settings)      # returns when it is told to stop
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from freshet.clock import now_ms
from freshet.cluster import ServiceUnreachable
from freshet.listening import STOP_S, bound, lifespan, page, run_on
from freshet.processes.naming import process_name
from freshet.processes.pulse import Pulse
from freshet.processes.serving import REFRESHER, cluster_serving
from freshet.settings import Settings
from stream.refresh import Refreshed

STUCK_MS: Final = 30_000
_DELAY_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class RefreshMetrics:
    """What a refresher counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.items = Counter("freshet_refresh_items_total", "Items embedded again", registry=registry)
        self.dirty = Gauge("freshet_dirty_items", "Items of this refresher's partitions whose vector waits", registry=registry)
        self.delay = Histogram("freshet_refresh_delay_seconds", "From an item's mark to its vector", buckets=_DELAY_S, registry=registry)

    def take(self, refreshed: Refreshed) -> None:
        """One step's."""
        self.items.inc(refreshed.embedded)
        for delay_ms in refreshed.delays_ms:
            self.delay.observe(delay_ms / 1000)


def run_refresher(settings: Settings) -> None:
    """Refresh until SIGTERM or SIGINT. Raises what `cluster_serving` raises, OSError when the port is taken."""
    if not settings.qdrant:
        raise ServiceUnreachable("a refresher writes to a Qdrant server: set FRESHET_QDRANT; without one the api process refreshes")
    name = process_name(REFRESHER)
    with cluster_serving(settings, process=name, refreshes=True) as site, bound(settings.host, settings.page_port) as listener:
        metrics, pulse = RefreshMetrics(), Pulse(site, name=REFRESHER)
        site.serving.told = metrics.take

        def healthy() -> str:
            stuck_ms = now_ms() - pulse.moved_ms
            return "" if pulse.is_alive() and stuck_ms < STUCK_MS else f"nothing was refreshed or looked at for {stuck_ms} ms"

        def text() -> bytes:
            metrics.dirty.set(site.dirty)
            return generate_latest(metrics.registry)

        app = page(healthy, text)
        app.router.lifespan_context = lifespan(pulse.start, pulse.stop)
        run_on(listener, app, stop_s=STOP_S)
