"""Where a partition's keys lie: one hash tag a partition, so that all of it is in one slot of a Redis Cluster.

Slots are spread evenly, partition p of P at (2p + 1) * 16384 / (2P), so that any even cut of the slots between servers
cuts the partitions evenly too; plain tags such as {e7} would lie where their checksum falls. The tags are part of what is
stored: this function may never give others.

    tags(12)[7]      # "1rp", in slot 10240
"""

from functools import lru_cache
from typing import Final

import numpy as np

from storage.arrays import I64s, U8s

SLOTS: Final = 16_384
PARTITIONS_MAX: Final = 4096
_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTH: Final = 4
"""36^4 texts: every slot has about a hundred."""
_AT_ONCE: Final = 36**3


@lru_cache(maxsize=16)
def tags(partitions: int) -> tuple[str, ...]:
    """The hash tag of each partition: of the four-letter texts in its slot the first."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions={partitions} is outside 1..{PARTITIONS_MAX}")
    wanted = [(2 * p + 1) * SLOTS // (2 * partitions) for p in range(partitions)]
    found: dict[int, str] = {}
    for start in range(0, len(_ALPHABET) ** _WIDTH, _AT_ONCE):
        digits = _digits(np.arange(start, start + _AT_ONCE, dtype=np.int64))
        slots, first = np.unique(_crc16(digits) % SLOTS, return_index=True)
        here = dict(zip(slots.tolist(), first.tolist(), strict=True))
        for slot in [slot for slot in wanted if slot not in found and slot in here]:
            found[slot] = "".join(chr(digit[here[slot]]) for digit in digits)
        if len(found) == partitions:
            break
    return tuple(found[slot] for slot in wanted)


def _digits(numbers: I64s) -> list[U8s]:
    """Numbers as texts of the alphabet, column by column, the first letter first."""
    letters = np.frombuffer(_ALPHABET, np.uint8)
    return [letters[numbers // len(_ALPHABET) ** place % len(_ALPHABET)] for place in reversed(range(_WIDTH))]


def _crc16(digits: list[U8s]) -> I64s:
    """CRC16/XMODEM, byte column by byte column: what Redis takes a key's slot from."""
    crc = np.zeros(len(digits[0]), dtype=np.int64)
    for column in digits:
        crc ^= column.astype(np.int64) << 8
        for _ in range(8):
            crc = np.where(crc & 0x8000, crc << 1 ^ 0x1021, crc << 1) & 0xFFFF
    return crc
