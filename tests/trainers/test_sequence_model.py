"""The neural source over sequences: it learns a planted walk, many users at once equal one by one, and it has no clock."""

from dataclasses import replace

import numpy as np
import pytest

from encoders.base import ItemFeatures, Ragged
from encoders.config import ModelConfig
from encoders.model import Model
from trainers.config import TrainConfig
from trainers.loop import Lesson, Trainer
from trainers.sequence_counts import ragged
from trainers.sequence_model import SequenceModel, encoded, placed_sequences

ITEMS, ACTION = 30, 2
CONFIG = ModelConfig(dim=16, history_len=8, head_hidden=4, surroundings=False, clock=False, cold_dropout=0.0)


def features() -> ItemFeatures:
    ids, nobody = np.arange(100, 100 + ITEMS, dtype=np.uint64), np.full((ITEMS, 1), -1, dtype=np.int64)
    nothing = Ragged(np.zeros(0, dtype=np.int64), np.zeros(ITEMS + 1, dtype=np.int64))
    return ItemFeatures(ids, nothing, np.zeros(ITEMS, dtype=np.float32), nobody, np.zeros((ITEMS, 1), dtype=np.float32))


def walks(count: int, seed: int) -> Ragged:
    """Each takes three places further round a ring every time."""
    random = np.random.default_rng(seed)
    return ragged([(random.integers(ITEMS) + 3 * np.arange(random.integers(2, 20))) % ITEMS for _ in range(count)])


def test_sequences_become_events_of_a_user_each_in_their_order() -> None:
    events = placed_sequences(Ragged(np.array([4, 2, 4, 9]), np.array([0, 3, 3, 4])), features().ids, action=ACTION)
    assert events.rows.tolist() == [4, 2, 4, 9] and events.columns.items.tolist() == [104, 102, 104, 109]
    assert events.columns.users.tolist() == [1, 1, 1, 3] and events.columns.ts_ms.tolist() == [0, 1, 2, 0]
    assert set(events.columns.actions.tolist()) == {ACTION}


@pytest.mark.parametrize("whole_max", [4096, 10])
def test_a_planted_walk_is_learned_from_all_positions(whole_max: int) -> None:
    known = features()
    config = TrainConfig(
        model=CONFIG, steps_max=150, seconds_max=600.0, batch_windows=16, learning_rate=1e-2, warm_up_steps=5, whole_max=whole_max,
        uniform=16, exclude_seen=False, shuffle_ties=False, check_every=150,
    )  # fmt: skip
    model = Model.new(config.model, known.ids, seed=0)
    trained = Trainer(config).run(model, Lesson(known, placed_sequences(walks(200, 1), known.ids, action=ACTION), None))
    inputs = walks(50, 2)
    scores = SequenceModel(trained.model, known, action=ACTION).scores(inputs)
    wanted = (inputs.values[inputs.offsets[1:] - 1] + 3) % ITEMS
    assert np.mean(scores.argmax(axis=1) == wanted) > 0.95 > 20 / ITEMS


def test_many_users_at_once_equal_one_by_one_as_look_ups_do() -> None:
    model, known = Model.new(CONFIG, features().ids, seed=3), features()
    inputs = Ragged(np.arange(31) % ITEMS, np.array([0, 0, 1, 3, 11, 31]))  # none, fewer, exactly and more than the model hears
    vectors = model.embed_items(known)
    logits = model.temperature * encoded(model, vectors, inputs, action=ACTION) @ vectors.T
    scores = SequenceModel(model, known, action=ACTION).scores(inputs)
    assert scores.shape == (5, ITEMS) and np.abs(scores - logits).max() < 1e-4
    newest = Ragged(np.arange(23, 31) % ITEMS, np.array([0, 8]))
    again = SequenceModel(model, known, action=ACTION).scores(newest)[0]
    assert np.abs(again - scores[4]).max() < 1e-5, "what is older than the history is not heard"


def test_a_model_with_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="clock=False"):
        SequenceModel(Model.new(replace(CONFIG, clock=True), features().ids, seed=0), features(), action=ACTION)
