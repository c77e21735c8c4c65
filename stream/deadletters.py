"""Dead letters: what was refused, why, where it came from and its bytes. A letter is known by its origin.

log.append(DEAD_LETTERS, [Entry(0, encode(letter))], now_ms=now_ms)
"""

from typing import Final

import msgspec

DEAD_LETTERS: Final = "dead-letters"


class DeadLetter(msgspec.Struct, kw_only=True):
    """Refused input. `raw` travels as base64; two letters of one origin are one."""

    topic: str
    incarnation: int
    partition: int
    offset: int
    index: int
    reason: str
    append_ms: int
    raw: bytes

    @property
    def origin(self) -> tuple[str, int, int, int, int]:
        """What makes it this letter and no other."""
        return (self.topic, self.incarnation, self.partition, self.offset, self.index)

    @property
    def name(self) -> str:
        """The origin as text, topic:incarnation:partition:offset:index: of an event without an id this is its id."""
        return ":".join(map(str, self.origin))

    @property
    def kind(self) -> str:
        """The reason without its details: a bounded set of labels."""
        return self.reason.split(":", 1)[0]


def encode(letter: DeadLetter) -> bytes:
    """The JSON form."""
    return msgspec.json.encode(letter)


def decode(body: bytes) -> DeadLetter:
    """Back from JSON."""
    return msgspec.json.decode(body, type=DeadLetter)
