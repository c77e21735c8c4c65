"""The wall clock, read at the edge and handed down."""

import time


def now_ms() -> int:
    """UTC milliseconds."""
    return time.time_ns() // 1_000_000
