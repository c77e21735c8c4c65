"""How the scores of several sources become one: a weighted sum of log-scores, the weights learned from what users took next.

blend = Blend(("neural", "neighbours", "popular"), weights); order = np.argsort(-blend.score(features))
"""

import json
from dataclasses import dataclass

import numpy as np

from encoders.base import F32s, F64s


@dataclass(frozen=True)
class Blend:
    """One weight per source; `features` columns come in the order of `sources`."""

    sources: tuple[str, ...]
    weights: F64s

    def __post_init__(self) -> None:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources must differ: {self.sources}")
        if self.weights.shape != (len(self.sources),) or not np.isfinite(self.weights).all():
            raise ValueError(f"{len(self.sources)} sources need as many finite weights, not {self.weights!r}")

    @property
    def weighed(self) -> frozenset[str]:
        """The sources that have a weight: no other needs to be asked."""
        return frozenset(source for source, weight in zip(self.sources, self.weights.tolist(), strict=True) if weight != 0.0)

    def score(self, features: F32s | F64s) -> F64s:
        """(C, S) log-scores of C candidates -> (C,) blended scores."""
        assert features.ndim == 2 and features.shape[1] == len(self.sources), f"features {features.shape}, sources {self.sources}"
        return features @ self.weights

    def over(self, sources: tuple[str, ...]) -> "Blend":
        """The same blend of more sources: those it does not name weigh nothing. Raises ValueError for one of its own that is missing."""
        if missing := sorted(set(self.sources) - set(sources)):
            raise ValueError(f"a blend of {self.sources} cannot do without {missing}; there are {sources}")
        weight_of = dict(zip(self.sources, self.weights.tolist(), strict=True))
        return Blend(sources, np.array([weight_of.get(source, 0.0) for source in sources]))

    def to_json(self) -> str:
        """JSON that `from_json` reads back to the bit."""
        return json.dumps({"sources": list(self.sources), "weights": [float(weight) for weight in self.weights]})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Blend":
        """Raises ValueError on unknown or missing keys."""
        found = json.loads(text)
        if not isinstance(found, dict) or set(found) != {"sources", "weights"}:
            raise ValueError(f"a blend has the keys sources and weights, not {sorted(found) if isinstance(found, dict) else found!r}")
        return cls(tuple(found["sources"]), np.array(found["weights"], dtype=np.float64))
