"""The gate: better is promoted; worse, tied, broken, collapsed, unproven and what harms a segment are refused with their numbers."""

from dataclasses import replace

import numpy as np
import pytest

from encoders.base import F64s
from trainers.anytime import askers_min
from trainers.gate import Decision, Evidence, GateConfig, decide

CASES = 400
SOME = np.arange(CASES) % 3 == 0


def evidence(gain: float, seed: int = 0) -> Evidence:
    random = np.random.default_rng(seed)
    live = random.random(CASES)
    users = random.normal(size=(CASES, 8)).astype(np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    candidate = live + gain + random.normal(0, 0.1, size=CASES)
    return Evidence(candidate, live, np.arange(CASES) // 4, {"new users": SOME}, users, generation=3, expected=3, brought_weight=0.4)


def asked(case: Evidence) -> Decision:
    return decide(case, GateConfig(cases_planned=CASES))


def test_a_better_candidate_is_promoted_with_its_numbers() -> None:
    decision = asked(evidence(0.05))
    assert decision.promote and decision.reason.startswith("better: gain +0.0")
    assert f"over {CASES} events of {CASES // 4} users, shown after " in decision.reason
    assert decision.numbers["gain_low"] > 0 and decision.numbers["cases"] == CASES
    assert decision.numbers["shown_after"] < CASES and decision.numbers["askers"] == CASES // 4
    assert decision.numbers["candidate"] > decision.numbers["live"]


def test_a_worse_candidate_is_refused() -> None:
    decision = asked(evidence(-0.05))
    assert not decision.promote and decision.reason.startswith("worse: gain -0.0") and decision.numbers["gain_high"] < 0
    assert "shown_after" not in decision.numbers


def test_a_tie_is_refused_to_the_bit_and_in_the_noise() -> None:
    tied = evidence(0.0)
    for case in (replace(tied, candidate=tied.live), tied):
        assert not asked(case).promote
    assert "not shown to be better" in asked(replace(tied, candidate=tied.live)).reason


def test_what_may_be_lost_is_a_share_of_what_is_live() -> None:
    """A model that finds a tenth of what counts find is no better than they, however little a tenth is."""
    allowed, random = GateConfig(cases_planned=CASES, loss_share_max=0.02), np.random.default_rng(0)
    live: F64s = 0.3 + 0.001 * random.random(CASES)
    case = replace(evidence(0.0), live=live, segments={})
    kept, lost = (decide(replace(case, candidate=share * live), allowed) for share in (0.99, 0.97))
    assert kept.promote and kept.reason.startswith(f"not worse by more than 2% of {live.mean():.4f}: gain -")
    assert not lost.promote and lost.reason.startswith("worse: ")
    sparse = replace(case, live=np.where(random.random(CASES) < 0.5, 0.005, 0.0), candidate=np.full(CASES, 0.0001))
    assert not decide(sparse, allowed).promote, "a loss of .0024, which once counted as none"


def test_a_model_that_its_own_blend_does_not_use_is_refused_though_it_is_no_worse() -> None:
    decision = decide(replace(evidence(0.05), brought_weight=0.0), GateConfig(cases_planned=CASES, loss_share_max=0.02))
    assert not decision.promote and decision.reason == "of no use: its own blend gives what it brings the weight 0"


def test_one_that_was_better_at_first_and_is_worse_in_the_end_is_refused() -> None:
    case = evidence(0.0)
    turned = case.live + np.where(np.arange(CASES) < 100, 0.2, -0.2)
    decision = asked(replace(case, candidate=turned, segments={}))
    assert decision.numbers["shown_after"] <= 100 and decision.numbers["gain_high"] < 0
    assert not decision.promote and decision.reason.startswith("worse: ")


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
    few = replace(case, candidate=case.candidate[:199], live=case.live[:199], askers=case.askers[:199], segments={})
    assert not asked(few).promote and "199 events, at least 200" in asked(few).reason
    assert "no user vectors" in asked(replace(case, users=case.users[:0])).reason
    assert "too little" in asked(replace(few, candidate=case.candidate[:0], live=case.live[:0], askers=case.askers[:0])).reason


def test_many_events_of_too_few_users_are_too_little_evidence() -> None:
    case = replace(evidence(0.5), askers=np.arange(CASES) % (askers_min() - 1))
    decision = asked(case)
    assert not decision.promote
    assert decision.reason == f"too little evidence: events of {askers_min() - 1} users, at least {askers_min()} needed"


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
    assert "not paired: 400" in asked(replace(case, askers=case.askers[:-1])).reason
    assert "not paired: 400" in asked(replace(case, segments={"new users": SOME[:-1]})).reason
    assert not asked(replace(case, generation=2)).promote and not asked(replace(case, live=case.live[:-1])).promote


def test_a_segment_that_regresses_refuses_what_is_better_over_all_and_is_named_with_its_numbers() -> None:
    case = evidence(0.2)
    harmed = replace(case, candidate=np.where(SOME, case.live - 0.05, case.candidate))
    assert asked(case).promote
    decision = asked(harmed)
    assert not decision.promote
    assert decision.reason.startswith("worse for new users: gain -0.0500 (95 % at any look: ")
    assert f"over {SOME.sum()} events of " in decision.reason and "over all gain +0.1" in decision.reason
    assert decision.numbers["new_users_gain"] == pytest.approx(-0.05) and decision.numbers["new_users_high"] < 0
    assert decision.numbers["gain_low"] > 0


def test_a_segment_may_lose_what_is_within_the_margin_and_what_chance_explains() -> None:
    case = evidence(0.2)
    little = replace(case, candidate=np.where(SOME, case.live - 0.009, case.candidate))
    assert asked(little).promote and asked(little).numbers["new_users_high"] < 0
    noise = np.random.default_rng(1).normal(-0.02, 1.0, CASES)
    unclear = replace(case, candidate=np.where(SOME, case.live + noise - noise[SOME].mean() - 0.02, case.candidate + 1.0))
    assert asked(unclear).numbers["new_users_gain"] == pytest.approx(-0.02)
    assert asked(unclear).promote and asked(unclear).numbers["new_users_high"] > 0


@pytest.mark.parametrize("chosen", [np.arange(CASES) < 99, np.arange(CASES) < 0, np.arange(CASES) // 4 < 4])
def test_a_segment_with_too_few_cases_is_said_to_be_unjudged(chosen: np.ndarray) -> None:
    case = evidence(0.2)
    harmed = replace(case, candidate=np.where(chosen, case.live - 0.2, case.candidate), segments={"new items": chosen})
    decision = asked(harmed)
    cases = int(chosen.sum())
    assert decision.reason.endswith(f"; unjudged: new items ({cases} events of {len(np.unique(case.askers[chosen]))} users)")
    assert decision.numbers["new_items_cases"] == cases and "new_items_gain" not in decision.numbers


def test_chance_alone_is_promoted_rarely() -> None:
    """Of 200 candidates that are no better, at most ten pass at any look."""
    assert sum(asked(evidence(0.0, seed)).promote for seed in range(200)) <= 10


def test_the_same_evidence_gives_the_same_decision_and_limits_are_checked() -> None:
    assert asked(evidence(0.004)) == asked(evidence(0.004))
    with pytest.raises(ValueError, match="cases_min"):
        GateConfig(cases_min=1)
    with pytest.raises(ValueError, match="may be lost"):
        GateConfig(segment_loss_share_max=-0.1)
