"""What ingest must come to: `bench/oracle.py`, which the bench of faults asks too.

oracle = Oracle(shape); oracle.apply(event, origin="events:0:0:7:0"); oracle.blobs("counts", 0)
"""

from bench.oracle import Oracle, murmur2

__all__ = ["Oracle", "murmur2"]
