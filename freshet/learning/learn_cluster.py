"""What a training of the cluster form reads: archive and weights from the store, contents from Redis; services by the environment.

inputs = cluster_inputs(job)
"""

import numpy as np
import pyarrow as pa

from freshet.cluster import archive_of, redis_of, store_of
from freshet.learning.job import Job
from freshet.learning.learn import Inputs, stored_contents
from freshet.learning.reading import read_for_training
from freshet.settings import Settings
from storage.models_redis import RedisRegistry
from storage.state_redis import RedisState


def cluster_inputs(job: Job) -> Inputs:
    """All that is archived by now and fits. Raises `ServiceUnreachable`, `ArchiveDamaged`, `Damaged`, `UnknownVersion`."""
    settings = Settings()
    client = redis_of(settings)
    state = RedisState(client, partitions=settings.partitions, prefix=settings.redis_prefix)
    try:
        registry = RedisRegistry(client, store_of(settings, "models"), settings.redis_prefix)
        parent = registry.files(job.parent) if job.parent else None
        contents = stored_contents(state, settings.partitions)
        read = read_for_training(archive_of(settings), most=job.events_max)
        return Inputs(one_stream(read.table()), parent, contents, older_share=read.share)
    finally:
        state.close()


def one_stream(table: pa.Table) -> pa.Table:
    """Rows of many partitions as if one had held them: in the order of their append times, numbered anew, equal times by partition.

    Kafka orders within a partition alone; this order is one that may have been, and is the same at each reading.
    """
    table = table.sort_by([("append_ms", "ascending"), ("partition", "ascending"), ("offset", "ascending"), ("index", "ascending")])
    offsets, partitions = table.column("offset").to_numpy(), table.column("partition").to_numpy()
    begins = (np.diff(offsets, prepend=-1) != 0) | (np.diff(partitions, prepend=-1) != 0)
    number = pa.array(np.cumsum(begins) - 1)
    for name in ("number", "offset"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), number)
    zeros = pa.array(np.zeros(table.num_rows, dtype=np.int32))
    return table.set_column(table.schema.get_field_index("partition"), table.schema.field("partition"), zeros)
