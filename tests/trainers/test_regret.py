"""A version that does worse than the one before is called so, soon; one that does as well is not."""

import numpy as np

from trainers import regret
from trainers.regret import Regret


def told(*, loss: float, seed: int, cases: int = 3000) -> tuple[int, str]:
    """After how many cases the live version was called worse, and in which words; 0 and "" if it never was."""
    generator, watch = np.random.default_rng(seed), Regret()
    for n in range(cases):
        difference = float(generator.choice((-0.2, 0.0, 0.0, 0.2)))
        asker = f"u{generator.integers(40)}"
        found = watch.add(live=0.5 + difference - loss * (generator.random() < 0.5), before=0.5, asker=asker)
        if found:
            return n + 1, found
    return 0, ""


def test_a_version_that_loses_is_called_worse_and_sooner_the_more_it_loses() -> None:
    little, much = (np.array([told(loss=loss, seed=seed)[0] for seed in range(10)]) for loss in (0.05, 0.2))
    assert (little > 0).all() and (much > 0).all()
    assert np.median(much) < np.median(little)
    assert (much % regret.LOOK_EVERY == 0).all()


def test_a_version_that_does_as_well_is_left_alone() -> None:
    wrong = sum(bool(told(loss=0.0, seed=seed)[0]) for seed in range(60))
    assert wrong <= 0.05 * 60 + 1


def test_it_says_how_much_over_how_many() -> None:
    cases, words = told(loss=0.3, seed=1)
    assert words.startswith("it does worse: -0.") and f"over {cases} look-ups" in words


def test_what_has_held_is_no_longer_looked_at() -> None:
    watch = Regret()
    for n in range(regret.CASES_MAX):
        assert not watch.add(live=0.5, before=0.5, asker=str(n % 7))
    assert not any(watch.add(live=0.0, before=1.0, asker=str(n)) for n in range(200))
