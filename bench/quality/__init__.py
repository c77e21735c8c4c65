"""Quality as the field measures it: full ranking on public layouts, baselines and blend in one run, one JSON line last.

    python -m bench.quality FORMAT --data PATH... [--model NAME] [--minutes M] [--withhold X,...] [--seed 0] [--out FOLDER] [--json OUT]

FORMAT is `loo` (leave one out, next item), `sessions` (next item of a session; `--withhold` measures freshness) or `prequential` (test,
then learn). `layouts.py` and `events.py` read files by layout, never by name; `asking.py` ranks questions over the whole catalogue, a
block of rows at a time; `blending.py` weighs the sources on validation alone; `loo.py`, `sessions.py`, `freshness.py` and
`prequential.py` are the formats' splits; `neural.py` plans, fits and keeps the neural source, which `systems.py` puts beside the counting
ones; `report.py` makes figures, table and JSON of ranks.

Not here: the sources themselves (`trainers/sequence_baselines.py`, `trainers/baselines.py`, `trainers/sequence_model.py`).
`prequential` has counting ones only: the live model over a stream is what `freshet demo` measures.
"""
