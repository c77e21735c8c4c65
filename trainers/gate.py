"""The gate: a candidate goes live only if it is better on the newest events, which neither it nor the live model has learned from.

    evidence = Evidence(candidate=gain_new, live=gain_old, askers=ids, segments={}, users=vectors, generation=1, expected=1,
                        brought_weight=weight)
    decision = decide(evidence, GateConfig(cases_planned=4000))

It may be asked again whenever more events have come: what it tells holds at every look (`trainers/anytime.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.base import Bools, F32s, F64s, I64s
from trainers.anytime import ALPHA, Interval, askers_min, by_asker, first_shown, interval


@dataclass(frozen=True)
class GateConfig:
    """What may be lost is a share of what the live model has: the same figure is much on one catalogue and everything on another.

    The candidate must be shown to have more than 1 - `loss_share_max` of the live mean; `cases_planned`: the events at which the test is
    sharpest. A segment of `segment_cases_min` events or more is judged: it must not be shown to be worse and lose more than
    `segment_loss_share_max` of its live mean.
    """

    cases_min: int = 200
    cases_planned: int = 4000
    loss_share_max: float = 0.0
    segment_cases_min: int = 100
    segment_loss_share_max: float = 0.08
    norm_error_max: float = 0.01
    likeness_max: float = 0.98

    def __post_init__(self) -> None:
        if self.cases_min < 2 or self.cases_planned < 1:
            raise ValueError(f"cases_min must be at least 2 and cases_planned at least 1: {self.cases_min}, {self.cases_planned}")
        if not 0 <= self.loss_share_max < 1 or not 0 <= self.segment_loss_share_max < 1:
            raise ValueError(f"shares that may be lost lie in [0, 1): {self.loss_share_max}, {self.segment_loss_share_max}")


@dataclass(frozen=True)
class Evidence:
    """Paired outcomes (n,) of candidate and live on the same events in order (discounted gains or hits, 0 to 1: higher is better).

    askers (n,): who asked, as any numbers. segments: (n,) each, which events are of it, by its name; they may overlap.
    users (m, D): the candidate's user vectors on these events. generation: the space the candidate was built for; expected: the one it
    is about to serve (the live one for a head, the new collection's for a trunk). brought_weight: what the sources that live in a version
    weigh in the candidate's blend.
    """

    candidate: F64s
    live: F64s
    askers: I64s
    segments: Mapping[str, Bools]
    users: F32s
    generation: int
    expected: int
    brought_weight: float


@dataclass(frozen=True)
class Decision:
    """Promote or not, why in one sentence with its numbers, and the numbers by name."""

    promote: bool
    reason: str
    numbers: dict[str, float]


def decide(evidence: Evidence, config: GateConfig) -> Decision:
    """Checks in order: generation, enough paired cases, finite outcomes and vectors, unit vectors that differ, the gain, segments.

    It is shown when the lower bound of candidate - (1 - `loss_share_max`) live exceeded 0 at any look and the upper one did not fall below
    since; with nothing to be lost a tie is a refusal. A segment that lost more than it may, and is shown to have lost, refuses; one with
    too few cases is named. Side effects: none.
    """
    numbers = _numbers(evidence)
    fault = _fault(evidence, config, numbers)
    if fault:
        return Decision(False, fault, numbers)
    groups = by_asker(evidence.candidate - evidence.live, evidence.askers)
    gain = interval(groups, planned=config.cases_planned)
    kept = by_asker(evidence.candidate - (1 - config.loss_share_max) * evidence.live, evidence.askers)
    shown = first_shown(kept, 0.0, planned=config.cases_planned)
    numbers |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "askers": float(gain.askers)}
    numbers |= {} if shown is None else {"shown_after": float(shown)}
    worse, unjudged = _segments(evidence, config, numbers)
    told = _told(gain)
    rest = f"; unjudged: {', '.join(unjudged)}" if unjudged else ""
    margin = f"{config.loss_share_max:.0%} of {numbers['live']:.4f}"
    if shown is not None and interval(kept, planned=config.cases_planned).high > 0:
        if worse:
            return Decision(False, f"worse for {' and for '.join(worse)}; over all {told}{rest}", numbers)
        what = "better" if gain.low > 0 else f"not worse by more than {margin}"
        return Decision(True, f"{what}: {told}, shown after {shown}{rest}", numbers)
    if gain.mean < 0:
        return Decision(False, f"worse: {told}{rest}", numbers)
    lacking = f"not shown to be worse by less than {margin}" if config.loss_share_max else "not shown to be better"
    return Decision(False, f"{lacking}: {told}{rest}", numbers)


def _segments(evidence: Evidence, config: GateConfig, numbers: dict[str, float]) -> tuple[list[str], list[str]]:
    """Which segments lost more than they may, and which have too few events to say so; their figures go to the numbers.

    How many events a segment has does not depend on how they went, so its test is sharpest at just these.
    """
    worse, unjudged = [], []
    for name, chosen in evidence.segments.items():
        groups = by_asker((evidence.candidate - evidence.live)[chosen], evidence.askers[chosen])
        cases, key = int(chosen.sum()), name.replace(" ", "_")
        numbers[f"{key}_cases"] = float(cases)
        if cases < config.segment_cases_min or len(groups) < askers_min():
            unjudged.append(f"{name} ({cases} events of {len(groups)} users)")
            continue
        gain, allowed = interval(groups, planned=cases), config.segment_loss_share_max * float(evidence.live[chosen].mean())
        numbers |= {f"{key}_gain": gain.mean, f"{key}_low": gain.low, f"{key}_high": gain.high}
        if gain.mean < -allowed and gain.high < 0:
            worse.append(f"{name}: {_told(gain)}, at most {allowed:.4f} may be lost")
    return worse, unjudged


def _told(gain: Interval) -> str:
    sure = f"{100 * (1 - ALPHA):g} % at any look"
    return f"gain {gain.mean:+.4f} ({sure}: {gain.low:+.4f} to {gain.high:+.4f}) over {gain.events} events of {gain.askers} users"


def _numbers(evidence: Evidence) -> dict[str, float]:
    numbers = {"cases": float(len(evidence.live)), "generation": float(evidence.generation), "expected": float(evidence.expected)}
    if len(evidence.candidate) and len(evidence.live):
        numbers |= {"candidate": float(evidence.candidate.mean()), "live": float(evidence.live.mean())}
    if len(evidence.users):
        norms = np.linalg.norm(evidence.users.astype(np.float64), axis=1)
        likeness = float(np.linalg.norm(evidence.users.astype(np.float64).mean(axis=0)))
        numbers |= {"norm_min": float(norms.min()), "norm_max": float(norms.max()), "likeness": likeness}
    return numbers


def _fault(evidence: Evidence, config: GateConfig, numbers: dict[str, float]) -> str:
    """Why the outcomes need not even be compared; empty if they may be."""
    if evidence.generation != evidence.expected:
        return f"wrong generation: built for {evidence.generation}, would serve {evidence.expected}"
    if len(evidence.candidate) != len(evidence.live):
        return f"not paired: {len(evidence.candidate)} outcomes of the candidate, {len(evidence.live)} of the live model"
    for name, labels in {"askers": evidence.askers, **evidence.segments}.items():
        if len(labels) != len(evidence.live):
            return f"not paired: {len(evidence.live)} outcomes, {len(labels)} labels of {name}"
    if len(evidence.live) < config.cases_min:
        return f"too little evidence: {len(evidence.live)} events, at least {config.cases_min} needed"
    if (askers := len(np.unique(evidence.askers))) < askers_min():
        return f"too little evidence: events of {askers} users, at least {askers_min()} needed"
    for name, values in (("candidate's outcomes", evidence.candidate), ("live outcomes", evidence.live), ("user vectors", evidence.users)):
        if not np.isfinite(values).all():
            return f"not a number: {int((~np.isfinite(values)).sum())} of {values.size} {name}"
    return _useless(evidence, config, numbers)


def _useless(evidence: Evidence, config: GateConfig, numbers: dict[str, float]) -> str:
    """What is wrong with the candidate's vectors; empty if they may go live."""
    if not len(evidence.users):
        return "too little evidence: no user vectors to check"
    if abs(numbers["norm_min"] - 1) > config.norm_error_max or abs(numbers["norm_max"] - 1) > config.norm_error_max:
        return f"collapsed: user vectors have lengths {numbers['norm_min']:.4f} to {numbers['norm_max']:.4f} instead of 1"
    if numbers["likeness"] > config.likeness_max:
        return f"collapsed: the mean of the user vectors has length {numbers['likeness']:.4f}, over {config.likeness_max}: all alike"
    if evidence.brought_weight <= 0:
        return f"of no use: its own blend gives what it brings the weight {evidence.brought_weight:g}"
    return ""
