"""Compare and write at once, of Redis or one slot of Redis Cluster: watch what is compared, look at it, write if it has not changed.

A script does the same in one round trip instead of two, but Lua copies each argument twice and hashes it: rows of 100 to 1,400
bytes took the server 2.2 to 2.8 times the time of a transaction's (docs/adr/0023). What the server refuses
beforehand (memory, permissions) is refused whole; a key of another type, which is none of ours, fails by itself.

    transactions = Transactions(client)
    done = transactions.run("k", ["k"], ["e", "w"], lambda held: [("HSET", "k", "w", 1)] if held == [[b"2", b"0"]] else [])
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, TimeoutError, TryAgainError  # noqa: A004

Command = tuple[Any, ...]
Held = list[list[bytes | None]]
Then = Callable[[Held], Sequence[Command]]
TRIES: Final = 3
"""On a Redis Cluster, where a slot may have gone to another server."""
_ELSEWHERE: Final = (MovedError, AskError, TryAgainError, ClusterDownError, ConnectionError, TimeoutError)


class Transactions:
    """Of one client, for any thread: each takes a connection of its own."""

    def __init__(self, client: "redis.Redis | redis.RedisCluster") -> None:
        self._client: Any = client  # its types know text and bytes, but not which

    def run(self, key: str, watched: Sequence[str], fields: Sequence[str], then: Then) -> bool:
        """Ask each watched hash for these fields, then do what `then` makes of the answers, all or nothing; no commands, nothing.

        `key` is where it happens. False if a watched hash changed meanwhile: nothing was done. A connection that breaks raises, or
        where the client is made to try again it begins anew, with another look: what was done already shows there.
        """
        for _ in range(TRIES - 1 if isinstance(self._client, redis.RedisCluster) else 0):
            try:
                return self._run(key, watched, fields, then)
            except _ELSEWHERE:
                self._client.hget(key, "e")  # the client finds out who has it now
        return self._run(key, watched, fields, then)

    def _run(self, key: str, watched: Sequence[str], fields: Sequence[str], then: Then) -> bool:
        pool = self._pool(key)
        connection = pool.get_connection()

        def exchanged() -> bool:
            held = asked(connection, [("WATCH", *watched), *(("HMGET", one, *fields) for one in watched)])[1:] if watched else []
            commands = then(held)
            if not commands:
                asked(connection, [("UNWATCH",)])
                return True
            done = asked(connection, [("MULTI",), *commands, ("EXEC",)])[-1]
            for answer in done or ():
                if isinstance(answer, Exception):
                    raise answer
            return done is not None

        try:
            done: bool = connection.retry.call_with_retry(exchanged, lambda _: connection.disconnect())  # type: ignore[no-untyped-call]
            return done
        finally:
            pool.release(connection)

    def _pool(self, key: str) -> redis.ConnectionPool:
        client = self._client
        if isinstance(client, redis.RedisCluster):
            client = client.get_redis_connection(client.get_node_from_key(key))  # type: ignore[no-untyped-call]
        pool: redis.ConnectionPool = client.connection_pool
        return pool


def asked(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """The answers to commands that go together. After an error the rest of them is not read, and the connection is given up."""
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [connection.read_response() for _ in commands]
    except BaseException:
        connection.disconnect()
        raise
