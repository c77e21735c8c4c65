"""A killed run goes on to the same weights as one that was not killed; half a file, or another run's, is never gone on from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainers.config import TrainConfig
from trainers.loop import Going, Lesson, Trained, Trainer, started
from trainers.saved import BadRun, Saved


@pytest.mark.parametrize("change", [{}, {"whole_max": 10, "pair_weight": 0.2}], ids=["whole", "sampled"])
def test_save_load_continue_equals_uninterrupted(rings: Callable[..., Any], quick: TrainConfig, change: dict[str, Any]) -> None:
    world = rings(users=20, length=12)
    config = replace(quick, steps_max=16, check_every=4, warm_up_steps=2, batch_windows=6, **change)
    lesson, blobs = Lesson(world.features, world.events, None), list[bytes]()

    def run(saved: Saved | None = None) -> Trained:
        going = Going(saving=lambda at: blobs.append(at.to_bytes()))
        return Trainer(config, clock=lambda: 0.0, going=going).run(started(config, world.features, None), lesson, key="k", saved=saved)

    whole = run()
    assert len(blobs) == 4 and whole.steps == whole.best_step == 16
    for blob in blobs[:3]:
        resumed = run(Saved.from_bytes(blob, key="k"))
        assert resumed.steps == 16 and resumed.model.to_bytes() == whole.model.to_bytes(), "to the last bit"


def test_best_weights_patience_and_time_are_gone_on_with(rings: Callable[..., Any], quick: TrainConfig) -> None:
    """The third check is the best; the run is killed after the fourth, and ends at the fifth by patience; time spent counts."""
    world, now = rings(users=20, length=12), iter(np.arange(0.0, 1000.0, 0.5))
    config = replace(quick, steps_max=1000, seconds_max=900.0, check_every=2, patience=2, batch_windows=6)
    ranks = iter([9, 5, 4, 1, 8])  # before the first step, then by check
    kept = list[Saved]()

    def judged(ranks: Any) -> Lesson:
        return Lesson(world.features, world.events, lambda model: np.array([next(ranks)]))

    class Killed(Exception):
        pass

    def saving(at: Saved) -> None:
        kept.append(at)
        if len(kept) == 4:
            raise Killed

    first = Trainer(config, clock=lambda: float(next(now)), going=Going(saving=saving))
    with pytest.raises(Killed):
        first.run(started(config, world.features, None), judged(ranks))
    assert kept[3].plain["step"] == 8 and kept[3].plain["best_step"] == 6 and kept[3].plain["seconds"] > 0
    ended = Trainer(config, clock=lambda: 5000.0).run(started(config, world.features, None), judged(iter([7])), saved=kept[3])
    assert (ended.steps, ended.best_step, ended.metrics["MRR"]) == (10, 6, 1.0) and ended.seconds == kept[3].plain["seconds"]
    for name, tensor in ended.model.state_dict().items():
        assert (tensor == kept[2].tensors["weights"][name]).all(), "the third check's weights"


def test_half_a_file_an_altered_one_and_another_run_are_refused() -> None:
    blob = Saved("one" * 20, {"step": 3}, {}, {}).to_bytes()
    assert Saved.from_bytes(blob, key="one" * 20).plain == {"step": 3}
    altered = blob[:-20] + bytes([blob[-20] ^ 1]) + blob[-19:]
    for wrong in (b"", blob[:-1], altered, b"x" + blob):
        with pytest.raises(BadRun, match="no whole run"):
            Saved.from_bytes(wrong, key="one" * 20)
    with pytest.raises(BadRun, match=r"of other data, settings or code \(oneoneoneone\)"):
        Saved.from_bytes(blob, key="two")
