"""What each user had before each question: those items are no candidates, in training as in look-ups.

hidden = seen_before(cut, rows, columns_of, width)[asked]      # (R, K), True = not a candidate
"""

import numpy as np
import torch
from torch import Tensor

from encoders.base import I64s
from trainers.samples import Windows


def seen_before(cut: Windows, rows: I64s, *, column_of: I64s, width: int) -> Tensor:
    """(W, L, K) bool: column k's item was acted on by the user at or before slot t, within the window or earlier.

    rows (E,) item row of each event; column_of (I,) column of each item row, -1 = not among the K = `width` columns. Memory W·L·K bytes.
    """
    count, length = cut.inputs.shape
    marks = np.zeros((count, length, width + 1), dtype=np.uint8)  # the last column takes what has none
    columns = np.where(cut.inputs >= 0, column_of[rows[cut.inputs]], -1)
    np.put_along_axis(marks, columns[:, :, None], 1, axis=2)
    for window in np.flatnonzero(cut.firsts > cut.begins):
        marks[window, 0, column_of[rows[cut.earlier(int(window))]]] = 1
    for slot in range(1, length):  # rows of K bytes lie together, which numpy's own accumulation does not use
        np.bitwise_or(marks[:, slot], marks[:, slot - 1], out=marks[:, slot])
    return torch.from_numpy(marks[:, :, :-1].view(bool))
