"""Faults that must be survived: real processes on a real Kafka and Redis, killed, paused, starved and lied to.

    python -m bench.faults [--only kill_worker,poison] [--trials N]

Each fault is a function of a ground and a trial's number (`catalogue.py` lists them). It starts the product's own processes,
does its harm, waits until everything is applied, and is judged (`judging.py`): totals and rows equal those of an oracle in plain
Python that shares no code with the reducers (`bench/oracle.py`), digests equal a replay's, every refused record is a dead
letter. What is lost or done twice is counted; a loss that an operator accepted on record is none.

`recovery_s` is the time from the end of the harm (the kill itself, the service being back, the way out being taken) until
everything on both topics is applied.

Where a process must die at a named point, or its clock must be wrong, it is `worker.py` instead of `freshet worker`: the same
classes with a fault, and smaller bounds, which fewer events reach.
"""
