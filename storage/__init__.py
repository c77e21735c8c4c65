"""One file per kind of memory: numpy in, numpy out, and no knowledge of models or of HTTP.

Two protocols carry the rest. `log.py` is numbered records in topics and partitions (`log_lmdb.py` on disk). `state.py` is
keyed blobs that change only by one commit that compares and sets (`state_lmdb.py` on disk, `state_memory.py` for replays and
tests, `state_redis.py` in a cluster, its keys placed by `slots.py`).
What the blobs mean: `histories.py` (and seen-sets), `counts.py`, `neighbours.py`, `names.py`, and `catalogue.py`,
which also holds items as dense rows in memory; `decay.py` is their arithmetic, `ragged.py` and `partitioned.py` move many
small blobs at once, `ids.py` makes 64-bit ids of strings.

Beside the state: `archive.py` keeps every event in Parquet, in the columns of `columns.py`; `vectors.py` says what a
collection of embeddings promises, `vectors_edge.py` keeps one on disk, `vectors_mirror.py` is its exact copy in memory,
`vectors_memory.py` and `vectors_local.py` are the forms for evaluations and for `qdrant-client`; `models.py` is the registry
of versions, `health.py` the heartbeats, `files.py` how a file appears whole or not at all. `arrays.py` names the types.
Where several machines share them: `places.py` (files on any pyarrow.fs address), `models_redis.py`, `health_redis.py`.

Not here: what an event does to a blob (`stream/`), what a vector means (`encoders/`).
"""
