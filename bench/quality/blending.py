"""A blend of the sources, its weights chosen on validation questions alone.

    blend = choose(systems, questions, num_items=num_items, seed=0, advance=advance)

It is the best single source by mean discounted gain, unless there is evidence for another: weights searched for (`trainers/blend.py`) on
the first half of the cases, from that source and from equal weights, that beat it on the second half by more than two standard errors,
both in discounted gain and in hits among ten. Halves, because cases near each other share users and times: what was fitted to some must
hold for others. So the blend contains the best source: a weight of 1 there and 0 elsewhere ranks as it does. Candidates are what any
source would retrieve.
"""

from typing import Final

import numpy as np

from bench.quality.asking import Advance, Questions, blended, blocks
from encoders.base import F64s, I64s
from encoders.blend import Blend
from trainers.blend import Case, sharpen
from trainers.metrics import discounted_gain, hit_rate, mid_ranks, mid_ranks_among
from trainers.sequence_baselines import Systems

CASES_MAX: Final = 10_000
RETRIEVED_MAX: Final = 150
"""Candidates that each source brings to a validation question."""
SEARCH_ERRORS: Final = (2.0, 1.0)
"""Standard errors a step of the search must gain: the bold search finds more, and is believed only on other cases."""
ACCEPT_ERRORS: Final = 2.0
HITS_AT: Final = 10


def choose(systems: Systems, questions: Questions, *, num_items: int, seed: int, advance: Advance) -> Blend:
    """Weights for all systems from at most 10,000 of the questions, drawn by `seed`; without questions the last system alone."""
    rows = np.arange(len(questions))
    if len(rows) > CASES_MAX:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), CASES_MAX, replace=False))
    gains = dict.fromkeys(systems.names, 0.0)
    cases: list[Case] = []
    for block in blocks(questions.take(rows), num_items):
        by_name = systems.scores(block.inputs)
        for name, scores in by_name.items():
            gains[name] += float(discounted_gain(mid_ranks_among(scores, block.targets, block.left_out)).sum())
        columns = [blended(Blend((name,), np.ones(1)), by_name, block.left_out) for name in systems.names]
        for row, target in enumerate(block.targets.tolist()):
            begin, end = block.left_out.offsets[row : row + 2].tolist()
            case = case_of(np.stack([column[row] for column in columns]), target, left_out=block.left_out.values[begin:end])
            cases += [case] if case else []
        advance(len(block))
    return from_best(systems.names, gains, cases)


def from_best(names: tuple[str, ...], gains: dict[str, float], cases: list[Case]) -> Blend:
    """The best single source by its gain (ties: the later name), or what is shown to be better on cases it was not searched on."""
    best = max(range(len(names)), key=lambda at: (gains[names[at]], at))
    single, equal = Blend(names, np.eye(len(names))[best]), Blend(names, np.full(len(names), 1 / len(names)))
    searched, kept_back = cases[: len(cases) // 2], cases[len(cases) // 2 :]
    if not searched:
        return single
    before, chosen, highest = ranks_of_cases(single, kept_back), single, 0.0
    for found in (sharpen(searched, start, errors_min=errors_min) for start in (single, equal) for errors_min in SEARCH_ERRORS):
        after = ranks_of_cases(found, kept_back)
        gain = discounted_gain(after) - discounted_gain(before)
        shown = _shown(gain) and _shown(hit_rate(after, HITS_AT) - hit_rate(before, HITS_AT))
        if shown and gain.mean() > highest:
            chosen, highest = found, float(gain.mean())
    return chosen


def _shown(differences: F64s) -> bool:
    """Whether paired differences are above 0 beyond their error."""
    return bool(differences.mean() > ACCEPT_ERRORS * differences.std() / len(differences) ** 0.5)


def ranks_of_cases(blend: Blend, cases: list[Case]) -> I64s:
    """Mid-rank of each case among its candidates, (n,)."""
    return np.array([mid_ranks(blend.score(case.features)[None], np.array([case.target]))[0] for case in cases], dtype=np.int64)


def case_of(log_shares: F64s, target: int, *, left_out: I64s) -> Case | None:
    """The candidates that the sources (S, I) would retrieve, and where the target is; None if it is not among them."""
    wanted = np.ones(log_shares.shape[1], dtype=np.bool_)
    wanted[left_out] = False
    candidates = np.flatnonzero(wanted)
    if len(candidates) > RETRIEVED_MAX:
        among = log_shares[:, candidates]
        best = np.argpartition(-among, RETRIEVED_MAX - 1, axis=1)[:, :RETRIEVED_MAX]
        candidates = candidates[np.unique(best)]
    at = np.searchsorted(candidates, target)
    if at == len(candidates) or candidates[at] != target:
        return None
    return Case(np.ascontiguousarray(log_shares[:, candidates].T), int(at))
