"""The stopwatch: programs that measure the product from outside and print one JSON line last. Never shipped in the wheel.

`engine.py` times how many events a second one process applies, once for bare histories and once for everything ingest does,
on a synthetic log; it also prints the bytes a user and a node take. `machine.py` adds what a figure was measured on: commit
(`+` for a changed tree), versions, cores, peak memory.

    python -m bench.engine --embedded --events 50000

What is printed on standard error is for people; the last line of standard output is for machines. Nothing imports this room.

`quality/` ranks whole catalogues on public layouts: `python -m bench.quality loo --data ratings.txt`.

Not here: the demo's own figures (`freshet/demo/run.py` measures itself while it runs), and a bench of serving, which does not
exist yet.
"""
