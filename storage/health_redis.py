"""Heartbeats in Redis: one hash, a field per process name and pid; for the processes of many machines.

health = RedisHealth(client)
health.beat(Beat("serving-0", os.getpid(), at_ms=now_ms, version="g1-h3", collection="items-g1", watermark=8123))
"""

from typing import Any, Final

import redis

from storage.health import RECORDS_MAX, Beat, beat_bytes, beat_in, in_order, key_of, lately, outlived

_REMOVE: Final = """
for n = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[n]) == ARGV[n + 1] then redis.call('HDEL', KEYS[1], ARGV[n]) end
end
"""


class RedisHealth:
    """At most `records_max` records, readable or not. Machines share no process ids: give each process a name of its own."""

    def __init__(self, client: "redis.Redis | redis.RedisCluster", prefix: str = "freshet", *, records_max: int = RECORDS_MAX) -> None:
        assert records_max >= 1, "room for one process"
        self._client: Any = client  # its types know text and bytes, but not which
        self._key, self._records_max = f"{prefix}:health", records_max
        self._remove = client.register_script(_REMOVE)

    def beat(self, beat: Beat) -> None:
        """Replace the process's record; records a day older than this one, the oldest above the bound and unreadable ones go.

        Only what is still as it was read goes: who beat meanwhile stays. Raises ValueError for a name as in `Health`.
        """
        self._client.hset(self._key, key_of(beat), beat_bytes(beat))
        stored = self._client.hgetall(self._key)
        beats = {key: beat_in(key.decode(errors="replace"), data) for key, data in stored.items()}
        gone = {key_of(other).encode() for other in outlived((each for each in beats.values() if each), beat, self._records_max)}
        removed = [part for key, data in stored.items() if key in gone or beats[key] is None for part in (key, data)]
        if removed:
            self._remove(keys=[self._key], args=removed)

    def read(self) -> list[Beat]:
        """Every record, by process name and pid; an unreadable one is left out."""
        return in_order(beat_in(key.decode(errors="replace"), data) for key, data in self._client.hgetall(self._key).items())

    def alive(self, now_ms: int, *, within_ms: int) -> list[Beat]:
        """Records not older than `within_ms`."""
        return lately(self.read(), now_ms, within_ms=within_ms)

    def forget(self, beat: Beat) -> None:
        """Remove the process's record: the last act of a clean end."""
        self._client.hdel(self._key, key_of(beat))
