"""The baselines of the two sequence protocols, each set learning and answering as one.

    baselines = SessionBaselines(num_items); baselines.learn(session); by_name = baselines.scores(prefixes)

`learn` takes one whole sequence, oldest first: a stream brings them one by one, and the state is the same as if they had all been there.
Source: the evaluation protocol, sections 2 (`LooBaselines`) and 3 (`SessionBaselines`).
"""

from typing import Final, Protocol

from encoders.base import F64s, I64s, Ragged
from trainers.linear import Ridge, fits
from trainers.sequence_counts import ItemKnn, SequenceRules
from trainers.sequence_popularity import Clicks, RecentLines, RecentTails
from trainers.session_knn import SessionKnn

KNN_STEP: Final = 0.8
RULES_STEP: Final = 0.7
PLUS_SHARE: Final = 0.05
PLUS_STEP: Final = 0.9


class Systems(Protocol):
    """Several systems asked at once."""

    @property
    def names(self) -> tuple[str, ...]:
        """What `scores` answers, in order."""

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        """A score for every item after each input, (B, I) by system; higher is better, what was never counted scores 0."""


class Source(Protocol):
    """One system that learns."""

    def learn(self, sequence: I64s) -> None:
        """Learn a whole sequence (n,), oldest first."""

    def scores(self, inputs: Ragged) -> F64s:
        """(B, I)."""


class SessionBaselines:
    """pop, recent, knn, rules, session_knn of section 3; the state is incremental throughout."""

    def __init__(self, num_items: int) -> None:
        self._parts: dict[str, Source] = {
            "pop": Clicks(num_items),
            "recent": RecentLines(num_items),
            "knn": ItemKnn(num_items, step_weight=0.0),
            "rules": SequenceRules(num_items, step_weight=0.0),
            "session_knn": SessionKnn(num_items),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The systems' names."""
        return tuple(self._parts)

    def learn(self, session: I64s) -> None:
        """Learn the newest session (n,), in click order."""
        for part in self._parts.values():
            part.learn(session)

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        """Scores by system, each (B, I)."""
        return {name: part.scores(inputs) for name, part in self._parts.items()}


class LooBaselines:
    """pop, recent, knn, rules, rules_plus and, for a catalogue that is small enough, ridge of section 2.

    The ridge is solved at once from all sequences, so the set is built from them and learns nothing afterwards.
    """

    def __init__(self, sequences: Ragged, num_items: int) -> None:
        self._pop, self._recent = Clicks(num_items), RecentTails(num_items)
        self._knn, self._rules = ItemKnn(num_items, step_weight=KNN_STEP), SequenceRules(num_items, step_weight=RULES_STEP)
        parts: tuple[Source, ...] = (self._pop, self._recent, self._knn, self._rules)
        for begin, end in zip(sequences.offsets[:-1].tolist(), sequences.offsets[1:].tolist(), strict=True):
            for part in parts:
                part.learn(sequences.values[begin:end])
        self._ridge = Ridge.fit(sequences, num_items) if fits(num_items) else None

    @property
    def names(self) -> tuple[str, ...]:
        """The systems' names; without `ridge` where the catalogue is too large for it."""
        return ("pop", "recent", "knn", "rules", "rules_plus", *(("ridge",) if self._ridge else ()))

    def scores(self, inputs: Ragged) -> dict[str, F64s]:
        """Scores by system, each (B, I)."""
        rules = self._rules.scores(inputs)
        by_name = {
            "pop": self._pop.scores(inputs),
            "recent": self._recent.scores(inputs),
            "knn": self._knn.scores(inputs),
            "rules": rules,
            "rules_plus": rules + PLUS_SHARE * self._knn.faded(inputs, PLUS_STEP),
        }
        return by_name | ({"ridge": self._ridge.scores(inputs)} if self._ridge else {})
