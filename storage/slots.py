"""Where a partition's keys lie: one hash tag a partition, so that all of it is in one slot of a Redis Cluster.

Slots are spread evenly, partition p of P at (2p + 1) * 16384 / (2P), so that any even cut of the slots between servers
cuts the partitions evenly too; plain tags such as {e7} would lie where their checksum falls. The tags are part of what is
stored: this function may never give others.

    tags(12)[7]      # "1rp", in slot 10240
"""

from functools import lru_cache
from typing import Final

import numpy as np

from storage.arrays import I64s

SLOTS: Final = 16_384
PARTITIONS_MAX: Final = 4096
_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTH: Final = 4
"""36^4 tags: every slot has about a hundred."""


@lru_cache(maxsize=16)
def tags(partitions: int) -> tuple[str, ...]:
    """The hash tag of each partition: of the four-letter texts in its slot the first."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions={partitions} is outside 1..{PARTITIONS_MAX}")
    number = np.arange(len(_ALPHABET) ** _WIDTH, dtype=np.int64)
    digits = [np.frombuffer(_ALPHABET, np.uint8)[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in reversed(range(_WIDTH))]
    slots, first = np.unique(_crc16(digits) % SLOTS, return_index=True)
    assert len(slots) == SLOTS, "every slot has a tag"
    wanted = [(2 * p + 1) * SLOTS // (2 * partitions) for p in range(partitions)]
    return tuple("".join(chr(digit[first[slot]]) for digit in digits) for slot in wanted)


def _crc16(digits: list[np.ndarray[tuple[int], np.dtype[np.uint8]]]) -> I64s:
    """CRC16/XMODEM, byte column by byte column: what Redis takes a key's slot from."""
    crc = np.zeros(len(digits[0]), dtype=np.int64)
    for column in digits:
        crc ^= column.astype(np.int64) << 8
        for _ in range(8):
            crc = np.where(crc & 0x8000, crc << 1 ^ 0x1021, crc << 1) & 0xFFFF
    return crc
