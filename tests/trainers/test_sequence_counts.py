"""Counting sources over sequences against the protocol's formulas in plain Python, and learning one by one against all at once."""

import math
from collections import Counter
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.base import F64s, I64s
from encoders.linear import BAG_ITEMS, DECAYS
from trainers import sequence_counts
from trainers.linear import PENALTY, Ridge, fits
from trainers.sequence_baselines import LooBaselines, SessionBaselines, Source
from trainers.sequence_counts import ItemKnn, SequenceRules, ragged
from trainers.sequence_popularity import Clicks, RecentLines, RecentTails

S = TypeVar("S", bound=Source)
ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=12)


def arrays(sequences: list[list[int]]) -> list[I64s]:
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def likeness(sequences: list[list[int]], i: int, j: int) -> float:
    having = [set(sequence) for sequence in sequences]
    both = sum(i in held and j in held for held in having)
    n_i, n_j = sum(i in held for held in having), sum(j in held for held in having)
    return 0.0 if i == j else both / math.sqrt((n_i + 20) * (n_j + 20))


def rule(sequences: list[list[int]], i: int, j: int) -> float:
    near = [
        1 / (there - here)
        for sequence in sequences
        for here, one in enumerate(sequence)
        for there, other in enumerate(sequence)
        if (one, other) == (i, j) and 1 <= there - here <= 5
    ]
    return sum(near) / (sum(sequence.count(i) for sequence in sequences) + 5)


def learned(source: S, sequences: list[list[int]]) -> S:
    for sequence in arrays(sequences):
        source.learn(sequence)
    return source


@given(SEQUENCES, st.lists(st.integers(0, ITEMS - 1), max_size=6))
def test_item_knn_and_rules_equal_the_formulas(sequences: list[list[int]], shown: list[int]) -> None:
    knn, rules = learned(ItemKnn(ITEMS, step_weight=0.8), sequences), learned(SequenceRules(ITEMS, step_weight=0.7), sequences)
    newest_first = shown[::-1]
    inputs = ragged(arrays([shown]))
    for q in range(ITEMS):
        assert knn.scores(inputs)[0, q] == pytest.approx(sum(0.8**p * likeness(sequences, h, q) for p, h in enumerate(newest_first)))
        assert rules.scores(inputs)[0, q] == pytest.approx(sum(0.7**p * rule(sequences, h, q) for p, h in enumerate(newest_first)))


@given(SEQUENCES, st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6))
def test_without_a_step_weight_only_the_last_item_counts(sequences: list[list[int]], shown: list[int]) -> None:
    knn, rules = learned(ItemKnn(ITEMS, step_weight=0.0), sequences), learned(SequenceRules(ITEMS, step_weight=0.0), sequences)
    inputs = ragged(arrays([shown]))
    assert knn.scores(inputs)[0].tolist() == pytest.approx([likeness(sequences, shown[-1], q) for q in range(ITEMS)])
    assert rules.scores(inputs)[0].tolist() == pytest.approx([rule(sequences, shown[-1], q) for q in range(ITEMS)])


def test_only_the_last_200_items_of_an_input_count() -> None:
    knn = learned(ItemKnn(3, step_weight=0.8), [[0, 2], [1, 2]])
    newest = [1] * 200
    assert knn.scores(ragged(arrays([[0, *newest]]))).tolist() == knn.scores(ragged(arrays([newest]))).tolist()


@given(SEQUENCES)
def test_popularity_is_a_count_of_what_the_protocol_names(sequences: list[list[int]]) -> None:
    asked = ragged(arrays([[0], []]))
    tails, lines = [sequence[-5:] for sequence in sequences], sequences * 4
    newest = lines[len(lines) - len(lines) // 10 :]
    for source, counted in (
        (learned(Clicks(ITEMS), sequences), sequences),
        (learned(RecentTails(ITEMS), sequences), tails),
        (learned(RecentLines(ITEMS), lines), newest),
    ):
        wanted = Counter(item for sequence in counted for item in sequence)
        assert source.scores(asked).tolist() == [[wanted[item] for item in range(ITEMS)]] * 2


@given(SEQUENCES, st.integers(1, 6))
def test_reading_between_sequences_changes_no_bit(sequences: list[list[int]], waiting_max: int) -> None:
    """State that was folded early, late or in between is the same."""
    inputs = ragged(arrays([[0], [1, 2], [3, 4, 5]]))
    whole, streamed = SessionBaselines(ITEMS), SessionBaselines(ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_counts, "WAITING_CLICKS_MAX", waiting_max)
        for sequence in arrays(sequences):
            streamed.learn(sequence)
            streamed.scores(inputs)
    for sequence in arrays(sequences):
        whole.learn(sequence)
    for name, scores in whole.scores(inputs).items():
        assert scores.tobytes() == streamed.scores(inputs)[name].tobytes(), name


def test_a_sparse_and_a_dense_matrix_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = np.random.default_rng(0).integers(0, ITEMS, size=(30, 6)).tolist()
    inputs = ragged(arrays(sequences[:5]))
    dense = learned(ItemKnn(ITEMS, step_weight=0.8), sequences).scores(inputs)
    monkeypatch.setattr(sequence_counts, "DENSE_CELLS_MAX", 0)
    assert learned(ItemKnn(ITEMS, step_weight=0.8), sequences).scores(inputs) == pytest.approx(dense)


def slow_ridge(sequences: list[list[int]], num_items: int, inputs: list[list[int]]) -> F64s:
    def bag(shown: list[int]) -> F64s:
        x = np.zeros(2 * num_items)
        for p, item in enumerate(shown[::-1][:BAG_ITEMS]):
            for d, decay in enumerate(DECAYS):
                x[d * num_items + item] += decay**p
        return x

    rows = [(bag(sequence[:cut]), sequence[cut]) for sequence in sequences for cut in range(1, len(sequence))]
    a, y = np.array([x for x, _ in rows]), np.eye(num_items)[[item for _, item in rows]]
    weights = np.linalg.solve(a.T @ a + PENALTY * np.eye(2 * num_items), a.T @ y)
    return np.array([bag(shown) @ weights for shown in inputs])


def test_the_ridge_equals_its_formula_also_where_bags_are_full_and_items_repeat() -> None:
    random = np.random.default_rng(3)
    sequences = [random.integers(0, ITEMS, size=length).tolist() for length in (1, 2, 5, 40, 75, 140)]
    inputs = [[], [1], [2, 2, 3], sequences[-1]]
    found = Ridge.fit(ragged(arrays(sequences)), ITEMS).scores(ragged(arrays(inputs)))
    assert found == pytest.approx(slow_ridge(sequences, ITEMS, inputs), abs=1e-9)


def test_rules_plus_adds_faded_neighbours_and_a_large_catalogue_has_no_ridge() -> None:
    sequences = ragged(arrays([[0, 1, 2], [2, 1, 3], [0, 3]]))
    systems, inputs = LooBaselines(sequences, ITEMS), ragged(arrays([[3, 0, 1]]))
    lists = [[0, 1, 2], [2, 1, 3], [0, 3]]
    plus = [sum(0.7**p * rule(lists, h, q) + 0.05 * 0.9**p * likeness(lists, h, q) for p, h in enumerate((1, 0, 3))) for q in range(ITEMS)]
    assert systems.scores(inputs)["rules_plus"][0].tolist() == pytest.approx(plus)
    assert systems.names == tuple(systems.scores(inputs)) == ("pop", "recent", "knn", "rules", "rules_plus", "ridge")
    assert not fits(1_000_000) and "ridge" not in LooBaselines(sequences, 4_097).names
