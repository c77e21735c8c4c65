"""Answers for applications and for operators: one look-up, and the HTTP face in front of it.

`lookup.py` is the whole of an answer: retrieve, exclude, blend, rank, explain. `sources.py` reads what is known of a user
and says what each source has to say for each item; `neural.py` is the source that encodes the history there and then,
`linear.py` those whose weights a version carries, `contents.py` has the newest items' words, `sessions.py` holds the recent
sessions of all; `features.py` turns masses and logits into log-scores that a blend can weigh. `live.py` is a model, its blend and its
collection as one whole, `popularity.py` the counts in memory, `rows.py` ids to catalogue rows, `progress.py` how far ingest
has come, `answers.py` what comes out.

HTTP: `api.py` parses, calls and serializes; `bodies.py` cuts what producers post, `problems.py` is every error,
`metrics.py` what Prometheus reads, `services.py` what the roof hands in: ready objects and callables.

Not here: writing state (events are appended through a callable), loading models, threads, the process itself
(`freshet/server.py`). The console does not exist yet; operators have `freshet lag`, `doctor`, `verify` and `/metrics`.
"""
