"""Messages no consumer may die of: each kind of bad record once, then again with other numbers.

body = poison(3)
"""

from typing import Final

from stream.events import ID_BYTES_MAX

_FAR_FUTURE_MS: Final = 16_725_225_600_000  # the year 2500


def poison(number: int) -> bytes:
    """The `number`-th bad message; every kind turns up in the first twelve. Each is refused whatever the time is."""
    kinds = (
        b"",
        b"{not json",
        b'{"user_id":"u%d","action":"view","item_id":"i1","ts_ms":17' % number,
        b'\xff\xfe{"user_id":"\x80%d"}' % number,
        b'{"action":"view","item_id":"i%d","ts_ms":1704067200000}' % number,
        b'{"user_id":"u%d","action":"view","ts_ms":1704067200000}' % number,
        b'{"user_id":"u%d","action":"view","item_id":"i1","ts_ms":"yesterday"}' % number,
        b'{"user_id":"u%d","action":"view","item_id":"i1","ts_ms":%d}' % (number, _FAR_FUTURE_MS),
        b'{"user_id":"u%d","action":"view","item_id":"%s","ts_ms":1704067200000}' % (number, b"x" * (ID_BYTES_MAX + 1)),
        b'{"user_id":"u%d","action":"view","item_id":"i1","ts_ms":1704067200000,"value":NaN}' % number,
        b'{"user_id":"u%d","action":"teleport","item_id":"i1","ts_ms":1704067200000}' % number,
        b'[["u%d","view","i1",1704067200000]]' % number,
    )
    return kinds[number % len(kinds)]
