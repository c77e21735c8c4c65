"""One installation in a test, on the shared services: what `bench/faults/sites.py` has, and what it all must come to.

with Site(partitions=3) as site: site.fill(messages); site.work_until_applied(); site.assert_effect_once(oracle, dead)
"""

import signal

from bench.faults import sites
from bench.faults.sites import APPLIED, APPLIED_S, Ground
from bench.services import ROOT, wait_until
from storage.names import Names
from storage.state import COUNTS, DIGESTED, HISTORIES, SEEN
from storage.state_memory import MemoryState
from stream.connecting import Arrived, Connecting
from stream.edges import EDGES
from stream.ingest import EVENTS, Ingest
from stream.wire import decode
from tests.services import kafka_server, redis_server
from tests.stream.oracle import Oracle

__all__ = ["ROOT", "Site"]
FROM_EVENTS = (HISTORIES, SEEN, COUNTS)


class Site(sites.Site):
    """Without a topic of entities, and without a folder: what its workers say is the test's output."""

    def __init__(self, *, partitions: int) -> None:
        super().__init__(Ground(kafka_server(), redis_server()), partitions=partitions, shared=APPLIED)

    def __enter__(self) -> "Site":
        return self

    def work_until_applied(self) -> None:
        """One more worker, until everything is applied; it is then stopped in order."""
        claimed = self.epochs(EVENTS) + self.shape.partitions
        worker = self.start()
        wait_until(lambda: self.epochs(EVENTS) >= claimed, seconds=APPLIED_S, alive=lambda: worker.poll() is None)
        self.wait_applied()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=15) == 0, "a worker stops in order"

    def replayed(self) -> MemoryState:
        """What both topics say, applied by one process to an empty state in memory."""
        state = MemoryState()
        ingest = Ingest(state, self.log, self.shape, names=Names(state), replaying=True, edges_apart=True)
        ingest.claim()
        connecting = Connecting(state, self.log, self.shape, replaying=True)
        for partition in range(self.shape.partitions):
            connecting.claim_partition(partition)
            offset = 0
            while records := self.log.read(EVENTS, partition, offset):
                ingest.apply_decoded(decode(records), now_ms=0)
                offset = records[-1].offset + 1
            offset = 0
            while records := self.log.read(EDGES, partition, offset):
                assert connecting.apply_each([Arrived(partition, records)])
                offset = records[-1].offset + 1
        return state

    def assert_effect_once(self, oracle: Oracle, dead: int) -> None:
        """Everything is there once: the oracle's rows and sums, a replay's bytes, each dead letter's origin."""
        accepted, duplicates = sum(oracle.accepted.values()), sum(oracle.duplicates.values())
        assert self.totals() == {"accepted": accepted, "duplicates": duplicates, "dead": dead}
        again = self.replayed()
        for partition in range(self.shape.partitions):
            for table in DIGESTED:
                rows = dict(self.state.scan(table, partition))
                assert rows == dict(again.scan(table, partition)), f"{table} of partition {partition} is a replay's"
                if table in FROM_EVENTS or self.shape.partitions == 1:
                    assert rows == oracle.blobs(table, partition), f"{table} of partition {partition} is the oracle's"
        assert len({letter.origin for letter in self.letters()}) == dead
