"""The array types that cross rooms: numpy in, numpy out."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

U8s: TypeAlias = NDArray[np.uint8]
U16s: TypeAlias = NDArray[np.uint16]
I32s: TypeAlias = NDArray[np.int32]
I64s: TypeAlias = NDArray[np.int64]
U64s: TypeAlias = NDArray[np.uint64]
F32s: TypeAlias = NDArray[np.float32]
F64s: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
