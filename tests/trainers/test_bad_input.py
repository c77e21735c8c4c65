"""What a training is given that teaches nothing, or would spoil every weight: it ends, in words or with finite weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from encoders.base import I64s, ItemFeatures, Ragged
from encoders.model import Model
from encoders.text import tokens
from trainers.batches import Batches
from trainers.config import TrainConfig
from trainers.graph import placed
from trainers.heads_training import HeadConfig, Samples, head_samples, replay_mask, tune_head
from trainers.linear import fitted
from trainers.loop import Lesson, Trainer
from trainers.samples import EventColumns, windows
from trainers.validation import validation_ranks

EVENTS = 300
HEAVY = 100_000


def catalogue(items: int, *, text: bool = True) -> ItemFeatures:
    """Nothing but ids, and titles where they have some."""
    words = tokens([f"item {row}" for row in range(items)], [{} for _ in range(items)])
    nothing = Ragged(np.empty(0, np.int64), np.zeros(items + 1, np.int64))
    nobody, degree = np.full((items, 4), -1, np.int64), np.ones(items, np.float32)
    shares = np.zeros((items, 4), np.float32)
    return ItemFeatures(np.arange(1, items + 1, dtype=np.uint64), words if text else nothing, degree, nobody, shares)


def likings(*, users: int, items: int, events: int = EVENTS, gap_ms: int = 1000) -> EventColumns:
    """Anybody takes anything; one event each `gap_ms`."""
    random = np.random.default_rng(0)
    who, what = (random.integers(1, size + 1, events).astype(np.uint64) for size in (users, items))
    return EventColumns(who, what, np.ones(events, np.uint8), np.arange(events, dtype=np.int64) * gap_ms)


@pytest.fixture
def short(quick: TrainConfig) -> TrainConfig:
    return replace(quick, steps_max=6, check_every=3, exclude_seen=True, shuffle_ties=True)


def finite(model: Model) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize(("events", "items"), [(0, 5), (3, 0), (2, 5)], ids=["no event", "no item", "two events"])
def test_too_little_to_train_on_is_refused_with_what_there_is(short: TrainConfig, events: int, items: int) -> None:
    columns = likings(users=2, items=5, events=events)
    with pytest.raises(ValueError, match=rf"^{events if items else 0} events on known items are too few to train on; at least 3"):
        Trainer(short).train(columns, catalogue(items))


@pytest.mark.parametrize("surroundings", [True, False], ids=["unified", "table"])
@pytest.mark.parametrize(
    "thin",
    [
        {"users": 1, "items": 30}, {"users": 30, "items": 1}, {"users": 1, "items": 1}, {"users": 30, "items": 30, "gap_ms": 0},
        {"users": 30, "items": 30, "text": False}, {"users": 1, "items": 1, "gap_ms": 0, "text": False},
    ],
    ids=["one user", "one item", "one of each", "one time", "no text", "one of each, at once, without text"],
)  # fmt: skip
def test_data_without_variety_trains_to_finite_weights(short: TrainConfig, thin: dict[str, Any], surroundings: bool) -> None:
    """Trunk, head and linear weights: what they are worth is the gate's business."""
    text, items = thin.get("text", True), thin["items"]
    columns, features = likings(**{name: value for name, value in thin.items() if name != "text"}), catalogue(items, text=text)
    config = replace(short, model=replace(short.model, surroundings=surroundings, clock=surroundings))
    trained = Trainer(config).train(columns, features)
    assert trained.steps == 6 and finite(trained.model)
    assert 1 / items <= trained.metrics["MRR"] <= 1
    events, vectors = placed(features, columns), trained.model.embed_items(features)
    assert np.isfinite(vectors).all()
    new = np.arange(EVENTS) >= EVENTS - 50
    samples = Samples(*(head_samples(trained.model, vectors, events, asked=asked) for asked in (new, ~new)))
    tuned = tune_head(trained.model, samples, vectors, config=HeadConfig(steps_max=3))
    assert finite(tuned.model) and np.isfinite(tuned.loss_after)
    assert np.isfinite(fitted(events, features.ids, seconds_max=1.0).weights).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("part", "told"), [("degree", "degree"), ("weights", "neighbour weights"), ("image", "image")])
def test_a_feature_that_is_not_finite_is_refused_with_the_item_it_is_of(short: TrainConfig, part: str, told: str, value: float) -> None:
    features = replace(catalogue(30), image=np.zeros((30, 3), np.float32))
    getattr(features, part)[6:8] = value
    config = replace(short, model=replace(short.model, image_dim=3))
    with pytest.raises(ValueError, match=rf"the {told} of 2 of 30 items hold NaN or infinity, first those of item 7; every number"):
        Trainer(config).train(likings(users=30, items=30), features)


def broken(short: TrainConfig, features: ItemFeatures) -> Model:
    model = Model.new(short.model, features.ids, seed=0)
    with torch.no_grad():
        model.tower.ids.weight[3] = torch.nan
    return model


def test_a_model_whose_scores_are_not_numbers_ranks_last_and_never_best(short: TrainConfig) -> None:
    columns, features = likings(users=30, items=30), catalogue(30)
    model = broken(short, features)
    with torch.no_grad():
        for part in (model.tower, model.user):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)
    for exclude_seen in (True, False):
        events = placed(features, columns)
        ranks = validation_ranks(model, features, events, asked=windows(columns, 8), exclude_seen=exclude_seen)
        assert (ranks == 30).all()


def test_a_loss_that_is_not_a_number_ends_the_run_in_words(short: TrainConfig) -> None:
    columns, features = likings(users=30, items=30), catalogue(30)
    with pytest.raises(ValueError, match=r"the loss of step \d is nan at the learning rate .*: the weights would be lost"):
        Trainer(short).train(columns, features, broken(short, features))
    unjudged = Lesson(features, placed(features, columns), ask=None)
    with pytest.raises(ValueError, match=r"the loss of step \d is nan"):
        Trainer(short).run(broken(short, features), unjudged)


def test_a_head_is_not_fitted_to_item_vectors_that_are_not_finite(short: TrainConfig) -> None:
    columns, features = likings(users=30, items=30), catalogue(30)
    model = Model.new(short.model, features.ids, seed=0)
    vectors = model.embed_items(features)
    vectors[4, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 30 item vectors are NaN or infinite, first that of row 4"):
        head_samples(model, vectors, placed(features, columns), asked=np.ones(EVENTS, dtype=bool))


@pytest.fixture(scope="module")
def heavy() -> tuple[EventColumns, ItemFeatures]:
    """One user of a hundred thousand events, beside some others."""
    one, others = likings(users=1, items=400, events=HEAVY), likings(users=50, items=400)
    others = replace(others, users=others.users + np.uint64(1))
    parts = [np.concatenate([getattr(part, name) for part in (others, one)]) for name in ("users", "items", "actions", "ts_ms")]
    return EventColumns(*parts), catalogue(400)


def test_a_batch_is_as_large_whoever_its_events_are_of(short: TrainConfig, heavy: tuple[EventColumns, ItemFeatures]) -> None:
    batches = Batches(heavy[0], short)
    for _ in range(20):
        assert next(batches).inputs.shape <= (short.batch_windows, short.model.history_len)


def test_a_run_over_a_user_of_a_hundred_thousand_events_makes_its_steps(
    short: TrainConfig, heavy: tuple[EventColumns, ItemFeatures]
) -> None:
    config = replace(short, steps_max=3, check_every=3, validation_max=500)
    trained = Trainer(config).train(*heavy)
    assert trained.steps == 3 and finite(trained.model)


def test_what_a_head_remembers_of_a_user_grows_with_the_items_and_not_with_the_questions(
    short: TrainConfig, heavy: tuple[EventColumns, ItemFeatures], told_before: Callable[[EventColumns, I64s, int], set[int]]
) -> None:
    """15,000 questions of one user: as lists of all that came before each they took gigabytes and minutes."""
    columns, features = heavy
    model = Model.new(short.model, features.ids, seed=0)
    vectors, events = model.embed_items(features), placed(features, columns)
    new = np.arange(len(events)) >= len(events) - 5_000
    old = replay_mask(len(events), before=len(events) - 5_000, replay_max=10_000, generator=np.random.default_rng(0))
    samples = Samples(*(head_samples(model, vectors, events, asked=asked) for asked in (new, old)))
    assert len(samples.new) == 5_000 and len(samples.replay) == 10_000
    for part in (samples.new, samples.replay):
        assert len(part.seen.values) <= 51 * len(features)
        assert int((part.seen.ends - part.seen.begins).max()) <= len(features)
    lists = samples.replay.take(np.arange(0, 10_000, 500)).seen.lists()
    asked = np.flatnonzero(old)[np.lexsort((columns.ts_ms[old], columns.users[old]))][::500]
    for n, event in enumerate(asked.tolist()):
        had = lists.values[lists.offsets[n] : lists.offsets[n + 1]].tolist()
        assert len(had) == len(set(had)) and set(had) == told_before(columns, events.rows, event)
    tuned = tune_head(model, samples, vectors, config=HeadConfig(steps_max=2))
    assert finite(tuned.model) and tuned.steps == 2


@pytest.fixture
def told_before() -> Callable[[EventColumns, I64s, int], set[int]]:
    def told(columns: EventColumns, rows: I64s, event: int) -> set[int]:
        same = columns.users == columns.users[event]
        earlier = (columns.ts_ms < columns.ts_ms[event]) | ((columns.ts_ms == columns.ts_ms[event]) & (np.arange(len(columns)) < event))
        return set(rows[same & earlier].tolist())

    return told
