"""The gate: a candidate goes live only if it is better on the newest events, which neither it nor the live model has learned from.

decision = decide(Evidence(candidate=rr_new, live=rr_live, users=vectors, generation=1, expected=1), GateConfig(), generator=generator)
"""

from dataclasses import dataclass

import numpy as np

from encoders.base import F32s, F64s
from trainers.metrics import RESAMPLES, paired_bootstrap


@dataclass(frozen=True)
class GateConfig:
    """`gain_min` is what the lower end of the 95 % interval of the mean gain must exceed."""

    cases_min: int = 200
    gain_min: float = 0.0
    resamples: int = RESAMPLES
    norm_error_max: float = 0.01
    likeness_max: float = 0.98

    def __post_init__(self) -> None:
        if self.cases_min < 2 or self.resamples < 100:
            raise ValueError(f"cases_min must be at least 2 and resamples at least 100: {self.cases_min}, {self.resamples}")


@dataclass(frozen=True)
class Evidence:
    """Paired outcomes (n,) of candidate and live on the same events in order (reciprocal ranks or hits: higher is better).

    users (m, D): the candidate's user vectors on these events. generation: the space the candidate was built for; expected: the one it
    is about to serve (the live one for a head, the new collection's for a trunk).
    """

    candidate: F64s
    live: F64s
    users: F32s
    generation: int
    expected: int


@dataclass(frozen=True)
class Decision:
    """Promote or not, why in one sentence with its numbers, and the numbers by name."""

    promote: bool
    reason: str
    numbers: dict[str, float]


def decide(evidence: Evidence, config: GateConfig, *, generator: np.random.Generator) -> Decision:
    """Checks in order: generation, enough paired cases, finite outcomes and vectors, vectors of unit length that differ, then the gain.

    The gain's interval is a paired bootstrap's (`trainers.metrics`); a tie is a refusal. Side effects: none.
    """
    numbers = _numbers(evidence)
    fault = _fault(evidence, config, numbers)
    if fault:
        return Decision(False, fault, numbers)
    gain = paired_bootstrap(evidence.candidate, evidence.live, generator=generator, resamples=config.resamples)
    numbers |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    told = f"gain {gain.mean:+.4f} (95 % {gain.low:+.4f} to {gain.high:+.4f}) over {gain.cases} events"
    if gain.low > config.gain_min:
        return Decision(True, f"better: {told}" if gain.low > 0 else f"not worse by more than {-config.gain_min:g}: {told}", numbers)
    if gain.mean < 0:
        return Decision(False, f"worse: {told}", numbers)
    return Decision(False, f"not shown to be better by more than {config.gain_min:g}: {told}", numbers)


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
    if len(evidence.live) < config.cases_min:
        return f"too little evidence: {len(evidence.live)} events, at least {config.cases_min} needed"
    for name, values in (("candidate's outcomes", evidence.candidate), ("live outcomes", evidence.live), ("user vectors", evidence.users)):
        if not np.isfinite(values).all():
            return f"not a number: {int((~np.isfinite(values)).sum())} of {values.size} {name}"
    if not len(evidence.users):
        return "too little evidence: no user vectors to check"
    if abs(numbers["norm_min"] - 1) > config.norm_error_max or abs(numbers["norm_max"] - 1) > config.norm_error_max:
        return f"collapsed: user vectors have lengths {numbers['norm_min']:.4f} to {numbers['norm_max']:.4f} instead of 1"
    if numbers["likeness"] > config.likeness_max:
        return f"collapsed: the mean of the user vectors has length {numbers['likeness']:.4f}, over {config.likeness_max}: all alike"
    return ""
