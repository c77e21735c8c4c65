"""The gate: better is promoted; worse, tied, broken, collapsed and unproven are refused with their numbers."""

from dataclasses import replace

import numpy as np
import pytest

from trainers.gate import Decision, Evidence, GateConfig, decide

CASES = 400


def evidence(gain: float, seed: int = 0) -> Evidence:
    random = np.random.default_rng(seed)
    live = random.random(CASES)
    users = random.normal(size=(CASES, 8)).astype(np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    return Evidence(live + gain + random.normal(0, 0.1, size=CASES), live, users, generation=3, expected=3)


def asked(case: Evidence) -> Decision:
    return decide(case, GateConfig(), generator=np.random.default_rng(0))


def test_a_better_candidate_is_promoted_with_its_numbers() -> None:
    decision = asked(evidence(0.05))
    assert decision.promote and decision.reason.startswith("better: gain +0.0")
    assert decision.numbers["gain_low"] > 0 and decision.numbers["cases"] == CASES
    assert decision.numbers["candidate"] > decision.numbers["live"]


def test_a_worse_candidate_is_refused() -> None:
    decision = asked(evidence(-0.05))
    assert not decision.promote and decision.reason.startswith("worse: gain -0.0") and decision.numbers["gain_high"] < 0


def test_a_tie_is_refused_to_the_bit_and_in_the_noise() -> None:
    tied = evidence(0.0)
    for case in (replace(tied, candidate=tied.live), tied):
        assert not asked(case).promote
    assert "not shown to be better" in asked(replace(tied, candidate=tied.live)).reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["candidate", "live", "users"])
def test_one_value_that_is_no_number_is_enough_to_refuse(value: float, part: str) -> None:
    case = evidence(0.5)
    broken = getattr(case, part).copy()
    broken.flat[7] = value
    decision = asked(replace(case, **{part: broken}))
    assert not decision.promote and decision.reason.startswith("not a number: 1 of")


def test_too_little_evidence_is_refused() -> None:
    case = evidence(0.5)
    few = replace(case, candidate=case.candidate[:199], live=case.live[:199])
    assert not asked(few).promote and "199 events, at least 200" in asked(few).reason
    assert "no user vectors" in asked(replace(case, users=case.users[:0])).reason
    assert "too little" in asked(replace(case, candidate=case.candidate[:0], live=case.live[:0])).reason


def test_collapsed_vectors_are_refused_however_good_the_outcomes() -> None:
    case = evidence(0.5)
    assert "lengths 0.0000 to" in asked(replace(case, users=case.users * 0)).reason
    alike = np.repeat(case.users[:1], CASES, axis=0)
    assert "all alike" in asked(replace(case, users=alike)).reason
    assert not asked(replace(case, users=alike)).promote and not asked(replace(case, users=case.users * 0)).promote


def test_the_wrong_generation_and_unpaired_outcomes_are_refused() -> None:
    case = evidence(0.5)
    assert asked(replace(case, generation=2)).reason == "wrong generation: built for 2, would serve 3"
    assert "not paired: 400" in asked(replace(case, live=case.live[:-1])).reason
    assert not asked(replace(case, generation=2)).promote and not asked(replace(case, live=case.live[:-1])).promote


def test_chance_alone_is_promoted_rarely() -> None:
    """One-sided 2.5 %: of 200 candidates that are no better, about five pass."""
    config = GateConfig(resamples=200)
    passed = sum(decide(evidence(0.0, seed), config, generator=np.random.default_rng(seed)).promote for seed in range(200))
    assert passed <= 13


def test_the_same_generator_gives_the_same_decision_and_limits_are_checked() -> None:
    assert asked(evidence(0.004)) == asked(evidence(0.004))
    with pytest.raises(ValueError, match="cases_min"):
        GateConfig(cases_min=1)
