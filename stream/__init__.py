"""Events in, fresh state out: from the bytes a producer sent to histories, counts and neighbour lists that a look-up reads.

The record is `events.py`, the one module other rooms may import. What shapes the state (bounds, half-lives, what an action
means) is `shape.py`. Getting in: `producer.py` packs events, `routing.py` says which partition is a user's. Being read:
`wire.py` decodes JSON to events and Arrow packs to columns, `validation.py` says what is refused and why, `deadletters.py` is the form
of a refusal, `hashing.py` replaces strings by ids. Being applied: `ingest.py` is one batch and its commit; `reducers.py` says
what an event changes, `kernels.py` how, compiled; `entities.py` does the same for what is known of items. Afterwards:
`archiving.py` makes archive rows, `refresh.py` embeds again what changed, `replay.py` builds the state a second time and
digests it.

In a cluster: `kafka.py` is where the brokers are, `topics.py` what they hold, `log_kafka.py` the log on them; `consuming.py` hands
out batches of claimed partitions, `edges.py` carries edges to `connecting.py`, which makes lists of them, `entity_writer.py` writes
entities where many may; `worker.py` is one process's share of all that, and `app.py` runs it under faust. Only this folder knows Kafka.

All but these is a function or an object that is handed its log and its state: nothing reads a clock, an environment or a
network. Not here: what the stored bytes mean and where they lie (`storage/`), what an embedding is (`encoders/`; refresh gets
a callable), the embedded loop that calls all this (`freshet/engine.py`).
"""
