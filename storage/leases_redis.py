"""Leases: who of several processes does what only one may do, until it says nothing for a while.

Convenience, not truth: a holder that was paused may write once more. A flip is then refused by its sequence number; a
refresher's batch is at worst a little older than what it covers. Time is the server's.

    leases = Leases(client, "refresher", owner="refresher-1.77"); leases.hold(range(12), share=6)
"""

from collections.abc import Iterable
from typing import Any, Final

import redis

LEASE_MS: Final = 10_000

_TAKE: Final = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
if ARGV[3] == '1' and not owner then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 2 end
return 0
"""
_ANEW: Final = 2
_LEAVE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Leases:
    """The leases of one kind, numbered. For one thread."""

    def __init__(
        self, client: "redis.Redis | redis.RedisCluster", kind: str, *, owner: str, prefix: str = "freshet", lease_ms: int = LEASE_MS
    ) -> None:
        self._client: Any = client  # its types know text and bytes, but not which
        self._key, self._owner, self._lease_ms = f"{prefix}:lease:{kind}", owner, lease_ms
        self._take, self._leave = client.register_script(_TAKE), client.register_script(_LEAVE)
        self.held: set[int] = set()

    def hold(self, numbers: Iterable[int], *, share: int) -> set[int]:
        """Renew what is held and take what is free, up to `share` in all; what is held beyond it is given back.

        Returns what is new, which includes what ran out and was taken again: another may have had it in between. When Redis does
        not answer, `held` stays as it was.
        """
        held, fresh = set[int](), set[int]()
        for number in sorted(numbers, key=lambda number: (number not in self.held, number)):
            room = len(held) < share
            taken = self._take(keys=[f"{self._key}:{number}"], args=[self._owner, self._lease_ms, int(room)])
            if taken and room:
                held.add(number)
                if taken == _ANEW or number not in self.held:
                    fresh.add(number)
            elif taken:
                self._give_back(number)
        self.held = held
        return fresh

    def release(self) -> None:
        """Give everything back: the last act of a clean end."""
        for number in self.held:
            self._give_back(number)
        self.held = set()

    def _give_back(self, number: int) -> None:
        self._leave(keys=[f"{self._key}:{number}"], args=[self._owner])
