"""State in Redis, or Redis Cluster: every commit is one transaction that compares epoch and watermark and writes.

All keys of a partition share a hash tag (`storage/slots.py`). A table of a partition is BUCKETS hashes by the top bits of
the id: a hash takes less memory a blob than a key of its own, can be listed without walking the whole database, and cut
in buckets no single one grows so large that listing it stops the server. Nothing expires; the server must not evict.
What a commit changed is noted in the same transaction, for who keeps a copy in memory (`storage/changes_redis.py`).

    state = RedisState(client, partitions=12)
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import hiredis
import msgspec
import numpy as np
import redis
from redis.connection import HiredisRespSerializer

from storage.arrays import U64s
from storage.changes_redis import ENTITIES, feed_key, note_of, note_of_nodes
from storage.slots import tags
from storage.state import (
    DIRTY,
    NODES,
    ORDERS,
    TALLIES,
    UPSTREAM,
    Advance,
    Claim,
    Commit,
    Newest,
    Refusal,
    Write,
    check_claim,
    check_shape,
    check_topic,
    refusal,
    tried,
)  # fmt: skip
from storage.transactions_redis import Command, Held, Transactions

BUCKETS: Final = 16
"""Of each table but the short ones. Part of what is stored: it may never change."""
_TO_BUCKET: Final = 64 - BUCKETS.bit_length() + 1
FEW: Final = 24
"""Ids that are looked at one by one: numpy would take longer to begin."""
_SHORT: Final = (DIRTY, TALLIES, UPSTREAM)
SCANNED_AT_ONCE: Final = 512
ROWS_TOGETHER_MAX: Final = 4096
"""Of several commits in one transaction, for which nobody else is answered."""
NOTES_MAX: Final = 256
"""Of a partition: who reads seldom loads everything again."""
_ANOTHER_TOPIC: Final = -1
_OF_BYTES: Final = ("HSET", "HMGET")

_CLAIM: Final = """
local topic = redis.call('HGET', KEYS[1], 't')
if topic and topic ~= '' and topic ~= ARGV[1] then return {-1, topic, '', ''} end
local epoch = redis.call('HINCRBY', KEYS[1], 'e', 1)
redis.call('HSET', KEYS[1], 't', ARGV[1])
return {epoch, redis.call('HGET', KEYS[1], 'w') or '0', redis.call('HGET', KEYS[1], 'i') or '0', ''}
"""
_ACCEPT: Final = """
local topic = redis.call('HGET', KEYS[1], 't')
redis.call('HINCRBY', KEYS[1], 'e', 1)
if topic and topic ~= '' and topic ~= ARGV[1] then redis.call('HINCRBY', KEYS[1], 'i', 1) end
redis.call('HSET', KEYS[1], 't', ARGV[1], 'w', ARGV[2])
"""
_CLEAR: Final = """
for n = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[n]) == ARGV[n + 1] then redis.call('HDEL', KEYS[1], ARGV[n]) end
end
"""
_NEWEST: Final = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  local ts, at = struct.unpack('>i8i8', held)
  local new_ts, new_at = struct.unpack('>i8i8', ARGV[2])
  if ts > new_ts or (ts == new_ts and at >= new_at) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[4]) end
local number = redis.call('HINCRBY', KEYS[4], 's', 1)
redis.call('XADD', KEYS[5], 'MAXLEN', '256', number .. '-0', 'c', ARGV[5])
return 1
"""


class RedisState:
    """One client, shared by the threads of a process. `partitions` is how many the state was made for: it decides where keys lie.

    On a Redis Cluster a commit reaches one partition; names of nodes that lie elsewhere are written just before it, which is
    harmless: a name without its owner is nothing.
    """

    def __init__(self, client: "redis.Redis | redis.RedisCluster", *, partitions: int, prefix: str = "freshet") -> None:
        self._client: Any = client  # its types know text and bytes, but not which
        self._prefix = prefix
        self._clustered = isinstance(client, redis.RedisCluster)
        if isinstance(client, redis.Redis):
            _packed_by_us(client.connection_pool)
        self._tags = tags(partitions)
        self._known_keys: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self._transactions = Transactions(client)
        self._claim, self._accept, self._clear, self._newest = (client.register_script(text) for text in (_CLAIM, _ACCEPT, _CLEAR, _NEWEST))

    def shape(self, wanted: dict[str, str | int | float]) -> None:
        """Store what shapes the state on first use; later raise `ShapeChanged` naming what differs."""
        key = f"{self._prefix}:shape"
        if not self._client.set(key, msgspec.json.encode(wanted), nx=True):
            check_shape(msgspec.json.decode(self._client.get(key) or b"{}"), wanted)

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """Raise the epoch, in one script. The first topic id is taken; another one raises `Gap`."""
        epoch, mark, incarnation, _ = self._claim(keys=[self._stream(stream, partition)], args=[topic_id])
        if epoch == _ANOTHER_TOPIC:
            check_topic(mark.decode(), topic_id, stream, partition)
        return Claim(stream, partition, int(epoch), int(mark), topic_id, int(incarnation))

    def accept(self, stream: str, partition: int, topic_id: str, watermark: int) -> None:
        """Go on at `watermark`; a new topic id gets the next incarnation. Fences whoever still reads the old topic."""
        self._accept(keys=[self._stream(stream, partition)], args=[topic_id, watermark])

    def topic_id(self, stream: str, partition: int) -> str:
        """The topic id the partition follows; "" before the first claim."""
        stored: bytes = self._client.hget(self._stream(stream, partition), "t") or b""
        return stored.decode()

    def watermarks(self, stream: str) -> dict[int, int]:
        """Next offset to apply, by partition; those never claimed are left out."""
        with self._client.pipeline(transaction=False) as pipe:
            for partition in range(len(self._tags)):
                pipe.hmget(self._stream(stream, partition), "e", "w")
            return {n: int(mark or 0) for n, (epoch, mark) in enumerate(pipe.execute()) if epoch is not None}

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """Blobs in the order asked, in one round trip."""
        return self.read_many([(table, partition, ids)])[0]

    def read_many(self, asked: Sequence[tuple[str, int, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
        """Several reads in one round trip; where a partition stands is asked last, on the same connection: what came before is of it."""
        found: list[list[bytes | None]] = []
        places: list[tuple[list[bytes | None], Sequence[int]]] = []
        with self._client.pipeline(transaction=False) as pipe:
            for table, partition, ids in asked:
                blobs: list[bytes | None] = [None] * len(ids)
                found.append(blobs)
                for key, rows, fields in self._buckets(table, partition, ids):
                    pipe.hmget(key, fields)
                    places.append((blobs, rows))
            for claim, _ in at:
                pipe.hmget(self._stream(claim.stream, claim.partition), "e", "w")
            answers = pipe.execute() if places or at else []
            for (claim, watermark), (epoch, mark) in zip(at, answers[len(places) :], strict=True):
                check_claim(claim, watermark, epoch=int(epoch or 0), watermark=int(mark or 0))
            for (blobs, rows), values in zip(places, answers, strict=False):
                if isinstance(rows, range):
                    blobs[rows.start : rows.stop] = values
                    continue
                for row, value in zip(rows, values, strict=True):
                    blobs[row] = value
        return found

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """Compare, write, advance. Raises `Fenced`, `WatermarkMoved`; ValueError for what one slot cannot hold."""
        if self._clustered:
            self._write_elsewhere(advances, writes)
            if not advances:
                return
        commit = (advances, writes)
        while (refusals := self._committed([commit])) is None:
            pass  # somebody else moved a watermark, or claimed, between look and write: whoever did that has gone on
        if refusals[0] is not None:
            raise refusals[0]

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """Small ones in one transaction; on a Redis Cluster, and where they are large, one after the other."""
        rows = sum(len(write.ids) for _, writes in commits for write in writes)
        refusals = self._committed(commits) if not self._clustered and rows <= ROWS_TOGETHER_MAX else None
        return [tried(self.commit, one) for one in commits] if refusals is None else refusals

    def _committed(self, commits: Sequence[Commit]) -> list[Refusal | None] | None:
        """Why each was refused, if it was; None where a watched stream changed meanwhile, and nothing was written."""
        streams = [self._stream(advance.claim.stream, advance.claim.partition) for advances, _ in commits for advance in advances]
        refusals: list[Refusal | None] = []

        def commands(held: Held) -> list[Command]:
            refusals.clear()
            looked, found = iter(held), list[Command]()
            for advances, writes in commits:
                stand = [next(looked) for _ in advances]
                refusals.append(_refusal(advances, stand))
                if refusals[-1] is None:
                    found += self._commands(advances, writes, stand)
            return found

        key = streams[0] if streams else next((self._keys(write.table, write.partition)[0][0] for _, ws in commits for write in ws), "")
        done = not key or self._transactions.run(key, streams, ("e", "w", "s"), commands)
        return (refusals or [None] * len(commits)) if done else None

    def _commands(self, advances: Sequence[Advance], writes: Sequence[Write], stand: Held) -> Iterator[Command]:
        """What one commit writes. A note's number is one above the last: nobody else writes one meanwhile."""
        slot = {advance.claim.partition for advance in advances} if self._clustered and advances else None
        for key, puts, deletes in self._changes([write for write in writes if slot is None or write.partition in slot]):
            if puts:
                yield ("HSET", key, *puts)
            if deletes:
                yield ("HDEL", key, *deletes)
        for advance, (*_, last) in zip(advances, stand, strict=True):
            claim = advance.claim
            stream, note = self._stream(claim.stream, claim.partition), note_of(advance, writes)
            if not note:
                yield ("HSET", stream, "w", advance.after)
                continue
            number = int(last or 0) + 1
            yield ("HSET", stream, "w", advance.after, "s", number)
            feed = feed_key(self._prefix, self._tags[claim.partition], claim.stream)
            yield ("XADD", feed, "MAXLEN", NOTES_MAX, f"{number}-0", "c", note)

    def clear(self, table: str, partition: int, ids: U64s, blobs: Sequence[bytes]) -> None:
        """A script for each bucket: compare each, remove it."""
        for key, rows, fields in self._buckets(table, partition, ids):
            self._clear(keys=[key], args=[part for field, row in zip(fields, rows, strict=True) for part in (field, blobs[row])])

    def put_newest(self, partition: int, rows: Sequence[Newest]) -> list[bool]:
        """Write each row, with its dirty mark, unless a newer or the same one is there, compared in the write: which were written."""
        written = []
        for row in rows:
            ids = np.array([row.id], dtype=np.uint64)
            places = (next(self._buckets(table, partition, ids)) for table in (NODES, ORDERS, DIRTY))
            keys, fields = zip(*((key, found[0]) for key, _, found in places), strict=True)
            order = b"".join(part.to_bytes(8, "big", signed=True) for part in row.order)
            feed = (self._stream(ENTITIES, partition), feed_key(self._prefix, self._tags[partition], ENTITIES))
            args = [fields[0], order, row.value, row.mark or b"", note_of_nodes(ids)]
            written.append(bool(self._newest(keys=[*keys, *feed], args=args)))
        return written

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """All (id, blob) with id >= `start` by ascending id. A bucket is listed at once; blobs are read as they are reached."""
        for key, lowest in self._keys(table, partition):
            if lowest + (1 << 64) // self._bucket_count(table) <= start:
                continue
            fields = sorted(field for field in self._client.hkeys(key) if int.from_bytes(field, "big") >= start)
            for at in range(0, len(fields), SCANNED_AT_ONCE):
                part = fields[at : at + SCANNED_AT_ONCE]
                for field, blob in zip(part, self._client.hmget(key, part), strict=True):
                    if blob is not None:
                        yield int.from_bytes(field, "big"), blob

    def close(self) -> None:
        """Release the connections."""
        if self._clustered:  # its own close leaves those of a client made from an address open
            self._client.disconnect_connection_pools()
        self._client.close()

    def _write_elsewhere(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """What lies in other slots than the commit, each slot at once."""
        here = {advance.claim.partition for advance in advances}
        if len(here) > 1:
            raise ValueError(f"a commit to a Redis Cluster advances one partition, not {sorted(here)}")
        for partition in {write.partition for write in writes} - here:
            self._committed([([], [write for write in writes if write.partition == partition])])

    def _changes(self, writes: Sequence[Write]) -> Iterator[tuple[str, list[Any], list[bytes]]]:
        """By bucket: fields and blobs to set, one after the other, and fields to delete. Of an id written twice the last counts."""
        found: dict[str, tuple[list[bytes], list[bytes | None]]] = {}
        for write in writes:
            values = [value if value is None or isinstance(value, bytes) else bytes(value) for value in write.values]
            for key, rows, fields in self._buckets(write.table, write.partition, write.ids):
                all_fields, all_values = found.setdefault(key, ([], []))
                all_fields += fields
                all_values += values[rows.start : rows.stop] if isinstance(rows, range) else [values[row] for row in rows]
        for key, (fields, blobs) in found.items():
            deletes: list[bytes] = []
            if None in blobs:
                last = dict(zip(fields, blobs, strict=True))
                deletes = [field for field, blob in last.items() if blob is None]
                kept = [(field, blob) for field, blob in last.items() if blob is not None]
                fields, blobs = [field for field, _ in kept], [blob for _, blob in kept]
            puts: list[Any] = [b""] * (2 * len(fields))
            puts[::2], puts[1::2] = fields, blobs
            yield key, puts, deletes

    def _buckets(self, table: str, partition: int, ids: U64s) -> Iterator[tuple[str, Sequence[int], list[bytes]]]:
        """Ids by bucket: its key, their rows, their fields. Ascending ids lie together: their rows are a range."""
        if not len(ids):
            return
        keys = self._keys(table, partition)
        if len(keys) == 1:
            yield keys[0][0], range(len(ids)), _fields(ids)
            return
        if len(ids) <= FEW:
            few: dict[int, tuple[list[int], list[bytes]]] = {}
            for row, node in enumerate(ids.tolist()):
                rows_of, fields_of = few.setdefault(node >> _TO_BUCKET, ([], []))
                rows_of.append(row)
                fields_of.append(node.to_bytes(8, "big"))
            for n, (rows_of, fields_of) in few.items():
                yield keys[n][0], rows_of, fields_of
            return
        bucket = (ids >> np.uint64(_TO_BUCKET)).astype(np.int64)
        order = None if (bucket[1:] >= bucket[:-1]).all() else np.argsort(bucket, kind="stable")
        if order is not None:
            ids, bucket = ids[order], bucket[order]
        fields = _fields(ids)
        begins = np.flatnonzero(np.diff(bucket, prepend=-1)).tolist()
        for begin, end in zip(begins, [*begins[1:], len(fields)], strict=True):
            rows = range(begin, end) if order is None else order[begin:end].tolist()
            yield keys[bucket[begin]][0], rows, fields[begin:end]

    def _keys(self, table: str, partition: int) -> list[tuple[str, int]]:
        """The buckets' keys, and the lowest id each may hold."""
        found = self._known_keys.get((table, partition))
        if found is None:
            count, head = self._bucket_count(table), f"{self._prefix}:{{{self._tags[partition]}}}:{table}"
            found = self._known_keys[table, partition] = [(f"{head}:{n:x}", n * ((1 << 64) // count)) for n in range(count)]
        return found

    def _bucket_count(self, table: str) -> int:
        return 1 if table in _SHORT else BUCKETS

    def _stream(self, stream: str, partition: int) -> str:
        return f"{self._prefix}:{{{self._tags[partition]}}}:stream:{stream}"


def _refusal(advances: Sequence[Advance], stand: Held) -> Refusal | None:
    """The first stream that is not as its claim says."""
    for advance, (epoch, mark, _) in zip(advances, stand, strict=True):
        found = refusal(advance.claim, advance.before, epoch=int(epoch or 0), watermark=int(mark or 0))
        if found is not None:
            return found
    return None


def _packed_by_us(pool: redis.ConnectionPool) -> None:
    """From now on, for connections that are made before too: they are made anew."""
    if "command_packer" not in pool.connection_kwargs:
        pool.connection_kwargs["command_packer"] = _Packer()
        pool.disconnect()
        pool.reset()


class _Packer(HiredisRespSerializer):
    """redis-py looks at each argument for views to copy; the long commands of ours hold none."""

    def pack(self, *args: Any) -> list[bytes]:
        """A command as bytes."""
        return [hiredis.pack_command(args)] if args[0] in _OF_BYTES else super().pack(*args)


def _fields(ids: U64s) -> list[bytes]:
    """Ids as the names of hash fields: eight bytes each, so that they sort as the ids do."""
    fields: list[bytes] = ids.astype(">u8").view("V8").tolist()
    return fields
