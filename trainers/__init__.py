"""Archive to better weights, or a reasoned refusal. Everything is point in time: a question sees only what came before it.

Trunk: `loop.py`, read from top to bottom, under the budget of `config.py`; `samples.py` cuts events into windows, `batches.py` orders them,
`saved.py` is what a killed run goes on from,
`objective.py` is one step, `losses.py` the formulas, `negatives.py` what a target is compared with, `seen.py` what is no
candidate, `graph.py` the neighbour lists as they were before the newest events, `validation.py` the ranks on those. Head:
`heads_training.py`, the trunk frozen. Blend: `blend.py` by ranks, on evidence only, then `live_blend.py` while it answers. Then
`metrics.py` and `gate.py` decide whether a candidate is better, `regret.py` whether what went live is worse after all, `drift.py` (what is
live does worse than it did) and `cadence.py` when to train at all. `baselines.py` is what any model
has to beat: popularity, recent popularity, Item-KNN, sequential rules; `sequence_baselines.py` the same over whole sequences, with
session-KNN (`session_knn.py`) and a ridge (`linear.py`), beside which `sequence_model.py` puts the neural source.

Functions and frozen settings; randomness and the clock are arguments. Not here: reading the archive and asking both models
(`learn.py` and `evidence.py` of `freshet/learning/`), the child process and promotion (`training.py` there), what a model is
(`encoders/`).
"""
