"""Head tuning: drift is learned, the trunk stays to the bit, replay and a warm optimiser do their part."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from encoders.model import Model
from trainers.config import TrainConfig
from trainers.heads_training import HeadConfig, HeadSamples, Samples, head_samples, replay_mask, tune_head
from trainers.loop import Trainer

CONFIG = HeadConfig(steps_max=40, batch_rows=64, learning_rate=5e-3, exclude_seen=False)


@pytest.fixture(scope="module")
def live(rings: Callable[..., Any], quick: TrainConfig) -> Model:
    world = rings()
    return Trainer(replace(quick, steps_max=150)).train(world.columns, world.features).model


def asked_of(live: Model, world: Any, asked: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> HeadSamples:
    return head_samples(live, live.embed_items(world.features), world.events, asked=asked)


@pytest.fixture(scope="module")
def drifted(rings: Callable[..., Any], live: Model) -> Samples:
    """New: users who now walk three items at a time. Replay: the walks the model knows."""
    new, old = rings(users=40, length=8, forward=3, seed=5), rings()
    kept = replay_mask(len(old.columns), before=len(old.columns), replay_max=200, generator=np.random.default_rng(0))
    return Samples(asked_of(live, new, np.ones(len(new.columns), dtype=bool)), asked_of(live, old, kept))


def test_samples_are_what_a_look_up_would_have_encoded(live: Model, rings: Callable[..., Any]) -> None:
    world = rings(users=5, length=7)
    samples = asked_of(live, world, np.arange(35) >= 20)
    vectors = live.embed_items(world.features)
    expected = {}
    for event in range(20, 35):
        past = np.flatnonzero(world.columns.users[:event] == world.columns.users[event])
        now_ms = int(world.columns.ts_ms[event])
        user = live.encode_user(vectors[world.rows[past]], world.columns.actions[past], world.columns.ts_ms[past], now_ms)
        expected[(int(world.rows[event]), tuple(dict.fromkeys(world.rows[past].tolist())))] = user  # the live head is the identity
    assert len(samples) == 15
    seen = samples.seen.lists()
    for place in range(15):
        had = seen.values[seen.offsets[place] : seen.offsets[place + 1]]
        assert np.abs(expected[(int(samples.targets[place]), tuple(had.tolist()))] - samples.users[place]).max() < 1e-5


def test_without_new_events_everything_stays_to_the_bit(live: Model, rings: Callable[..., Any]) -> None:
    world = rings()
    nothing = asked_of(live, world, np.zeros(len(world.columns), dtype=bool))
    tuned = tune_head(live, Samples(nothing, nothing), live.embed_items(world.features), config=CONFIG, optimiser=b"as it was")
    assert tuned.steps == 0 and tuned.optimiser == b"as it was"
    assert tuned.model.to_bytes() == live.to_bytes()


def test_drift_is_learned_without_moving_the_trunk(live: Model, rings: Callable[..., Any], drifted: Samples) -> None:
    features, before = rings().features, live.to_bytes()
    vectors = live.embed_items(features)
    tuned = tune_head(live, drifted, vectors, config=replace(CONFIG, steps_max=150))
    assert tuned.loss_after < tuned.loss_before - 0.05
    assert tuned.model.trunk_digest() == live.trunk_digest()
    assert (tuned.model.embed_items(features) == vectors).all()
    assert live.to_bytes() == before, "the live model is not touched"
    assert all(parameter.grad is None for part in (live.tower, live.user) for parameter in part.parameters())


def test_at_step_zero_no_vector_moves(live: Model, drifted: Samples, rings: Callable[..., Any]) -> None:
    world = rings()
    other = live.with_head(live.head.state_dict())
    vectors, times = live.embed_items(world.features)[:5], np.arange(5) * 1000
    actions = np.ones(5, dtype=np.uint8)
    assert (other.encode_user(vectors, actions, times, 5000) == live.encode_user(vectors, actions, times, 5000)).all()


def test_a_warm_optimiser_continues_where_it_was(live: Model, drifted: Samples, rings: Callable[..., Any]) -> None:
    """Two runs of 20, the second warm, go on falling; a state that is not passed on gives other weights."""
    vectors = live.embed_items(rings().features)
    half = replace(CONFIG, steps_max=20)
    first = tune_head(live, drifted, vectors, config=half)
    warm = tune_head(first.model, drifted, vectors, config=replace(half, seed=1), optimiser=first.optimiser)
    cold = tune_head(first.model, drifted, vectors, config=replace(half, seed=1))
    assert warm.loss_before == pytest.approx(first.loss_after) and warm.loss_after < first.loss_after
    weights = [tuned.model.head.residual.outer.weight for tuned in (warm, cold)]
    assert bool((weights[0] != weights[1]).any())
    again = tune_head(first.model, drifted, vectors, config=replace(half, seed=1), optimiser=first.optimiser)
    assert again.model.to_bytes() == warm.model.to_bytes()


def test_replay_keeps_what_was_known(live: Model, drifted: Samples, rings: Callable[..., Any]) -> None:
    vectors = live.embed_items(rings().features)
    config = replace(CONFIG, steps_max=150)
    nothing = drifted.replay.take(np.empty(0, dtype=np.int64))
    with_replay = tune_head(live, drifted, vectors, config=config).model
    without = tune_head(live, Samples(drifted.new, nothing), vectors, config=config).model

    def old_loss(model: Model) -> float:
        return tune_head(model, Samples(drifted.replay, nothing), vectors, config=replace(config, steps_max=1)).loss_before

    assert old_loss(with_replay) < old_loss(without)


def test_a_large_catalogue_is_sampled(live: Model, drifted: Samples, rings: Callable[..., Any]) -> None:
    config = replace(CONFIG, whole_max=10, uniform=24, exclude_seen=True)
    tuned = tune_head(live, drifted, live.embed_items(rings().features), config=config)
    assert tuned.loss_after < tuned.loss_before


def test_replay_is_bounded_and_from_before() -> None:
    mask = replay_mask(100, before=60, replay_max=10, generator=np.random.default_rng(0))
    assert mask.sum() == 10 and not mask[60:].any()
    assert replay_mask(5, before=3, replay_max=10, generator=np.random.default_rng(0)).tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize("wrong", [{"new_share": 0.0}, {"new_share": 1.5}, {"steps_max": 0}, {"learning_rate": 0.0}])
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HeadConfig(**wrong)  # type: ignore[arg-type]  # that is the test
