"""One user, now: the causal transformer and the head for a single history, compiled, for the look-up that cannot wait. No torch here.

What is not needed is not computed: the last layer asks one query only. All weights lie in one array, because a compiled function
looks at each array it is handed, and forty of them take as long as a fifth of the arithmetic.

    user = prepared(trunk, head); vector = user.encode(item_vectors, actions, ts_ms, now_ms)     # (D,), unit length
"""

from dataclasses import dataclass

from encoders.base import F32s, I64s, U8s
from encoders.kernels import encoded


@dataclass(frozen=True)
class PreparedUser:
    """Weights of one model version. `places` (M, 3): where each matrix begins, its rows and columns, in the order that
    `kernels.py` names; `bias` (H, L + 1, L + 1) by head and distance.
    """

    history_len: int
    weights: F32s
    places: I64s
    bias: F32s

    def encode(self, item_vectors: F32s, actions: U8s, ts_ms: I64s, now_ms: int) -> F32s:
        """(L, D) vectors, (L,) actions and their times, oldest first, the newest `history_len` used -> (D,) unit length. L may be 0."""
        newest = slice(-self.history_len, None)
        vector: F32s = encoded(item_vectors[newest], actions[newest], ts_ms[newest], now_ms, self.weights, self.places, self.bias)
        return vector
