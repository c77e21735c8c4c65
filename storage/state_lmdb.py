"""Embedded state: LMDB without a sync at each commit, so it survives the death of the process, not of the machine.

A clean close is noted with the machine's boot id. Opened after another boot without one, the state cannot be trusted and
`LmdbState.open` says so by starting empty: the engine then rebuilds it from archive and log.

    state = LmdbState(Path("data/state"), boot_id=boot_id())
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import lmdb
import msgspec
import numpy as np

from storage.arrays import U64s
from storage.state import TABLES, Advance, Claim, Commit, Refusal, Write, check_claim, check_shape, check_topic, tried

_BOOT: Final = b"boot"
_SHAPE: Final = b"shape"
_KEY: Final = np.dtype([("partition", ">u2"), ("id", ">u8")])
_FEW: Final = 32


class _Held(msgspec.Struct):
    epoch: int = 0
    watermark: int = 0
    topic_id: str = ""
    incarnation: int = 0


_held_from: Final = msgspec.json.Decoder(_Held)


class LmdbState:
    """One environment with a database per table; keys are partition and id, big-endian, so a scan ascends by id."""

    def __init__(self, folder: Path, *, boot_id: str, state_bytes_max: int = 64 << 30, read_only: bool = False) -> None:
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._boot_id, self._read_only = folder, boot_id, read_only
        self._env = lmdb.open(
            str(folder), map_size=state_bytes_max, max_dbs=len(TABLES) + 1, sync=False, metasync=False, readonly=read_only, max_spare_txns=4
        )  # fmt: skip
        self._meta = self._env.open_db(b"meta", create=not read_only)
        self._tables = {name: self._env.open_db(name.encode(), create=not read_only) for name in TABLES}
        self.distrusted = False
        if not read_only:
            self._open_once()

    def shape(self, wanted: dict[str, str | int | float]) -> None:
        """Store what shapes the state on first use; later raise `ShapeChanged` naming what differs."""
        with self._env.begin(write=not self._read_only) as txn:
            raw = txn.get(_SHAPE, db=self._meta)
            if raw is None:
                if not self._read_only:
                    txn.put(_SHAPE, msgspec.json.encode(wanted), db=self._meta)
                return
        check_shape(msgspec.json.decode(raw), wanted)

    def claim(self, stream: str, partition: int, topic_id: str) -> Claim:
        """Raise the epoch. The first topic id is taken; another one raises `Gap`."""
        with self._env.begin(write=True) as txn:
            held = self._held(txn, stream, partition)
            check_topic(held.topic_id, topic_id, stream, partition)
            held.epoch, held.topic_id = held.epoch + 1, topic_id
            txn.put(_key(stream, partition), msgspec.json.encode(held), db=self._meta)
        return Claim(stream, partition, held.epoch, held.watermark, topic_id, held.incarnation)

    def accept(self, stream: str, partition: int, topic_id: str, watermark: int) -> None:
        """Go on at `watermark`; a new topic id gets the next incarnation. Fences whoever still reads the old topic."""
        with self._env.begin(write=True) as txn:
            held = self._held(txn, stream, partition)
            held.epoch += 1
            held.incarnation += held.topic_id not in ("", topic_id)
            held.topic_id, held.watermark = topic_id, watermark
            txn.put(_key(stream, partition), msgspec.json.encode(held), db=self._meta)

    def topic_id(self, stream: str, partition: int) -> str:
        """The topic id the partition follows; "" before the first claim."""
        with self._env.begin() as txn:
            return self._held(txn, stream, partition).topic_id

    def watermarks(self, stream: str) -> dict[int, int]:
        """Next offset to apply, by partition."""
        found = {}
        prefix = f"stream:{stream}:".encode()
        with self._env.begin() as txn, txn.cursor(db=self._meta) as cursor:
            if cursor.set_range(prefix):
                for key, raw in cursor:
                    if not key.startswith(prefix):
                        break
                    found[int(key[len(prefix) :])] = _held_from.decode(raw).watermark
        return found

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """Blobs in the order asked. O(log n) each; ids in key order are read fastest."""
        return self.read_many([(table, partition, ids)])[0]

    def read_many(self, asked: Sequence[tuple[str, int, U64s]], *, at: Sequence[tuple[Claim, int]] = ()) -> list[list[bytes | None]]:
        """Several reads of one snapshot."""
        with self._env.begin() as txn:
            for claim, watermark in at:
                held = self._held(txn, claim.stream, claim.partition)
                check_claim(claim, watermark, epoch=held.epoch, watermark=held.watermark)
            return [self._read(txn, self._tables[table], _keys(partition, ids)) for table, partition, ids in asked]

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        """One transaction: compare epochs and watermarks, write, advance."""
        with self._env.begin(write=True) as txn:
            for advance in advances:
                claim = advance.claim
                held = self._held(txn, claim.stream, claim.partition)
                check_claim(claim, advance.before, epoch=held.epoch, watermark=held.watermark)
                held.watermark = advance.after
                txn.put(_key(claim.stream, claim.partition), msgspec.json.encode(held), db=self._meta)
            for write in writes:
                self._write(txn, write)

    def commit_each(self, commits: Sequence[Commit]) -> list[Refusal | None]:
        """One after the other."""
        return [tried(self.commit, one) for one in commits]

    def clear(self, table: str, partition: int, ids: U64s, blobs: Sequence[bytes]) -> None:
        """One transaction: compare each, remove it."""
        database = self._tables[table]
        with self._env.begin(write=True) as txn:
            for key, blob in zip(_keys(partition, ids), blobs, strict=True):
                if txn.get(key, db=database) == blob:
                    txn.delete(key, db=database)

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """All (id, blob) with id >= `start` by ascending id, as of now: a snapshot."""
        prefix = partition.to_bytes(2, "big")
        with self._env.begin(db=self._tables[table]) as txn, txn.cursor() as cursor:
            if cursor.set_range(prefix + start.to_bytes(8, "big")):
                for key, value in cursor:
                    if not key.startswith(prefix):
                        return
                    yield int.from_bytes(key[2:], "big"), value

    def sync(self) -> None:
        """Write through to the disk."""
        self._env.sync(True)

    def used_bytes(self, table: str) -> int:
        """Bytes of the pages a table takes."""
        with self._env.begin() as txn:
            stat = txn.stat(self._tables[table])
        return int(stat["psize"]) * int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def reset(self) -> None:
        """Forget everything: what follows is a rebuild."""
        with self._env.begin(write=True) as txn:
            for database in (self._meta, *self._tables.values()):
                txn.drop(database, delete=False)
            txn.put(_BOOT, self._boot_id.encode(), db=self._meta)

    def close(self) -> None:
        """Sync, note the clean close, release."""
        if not self._read_only:
            self._env.sync(True)
            with self._env.begin(write=True) as txn:
                txn.put(_BOOT, b"", db=self._meta)
            self._env.sync(True)
        self._env.close()

    def _open_once(self) -> None:
        with self._env.begin() as txn:
            noted = txn.get(_BOOT, default=b"", db=self._meta).decode()
        if noted not in ("", self._boot_id):
            self.distrusted = True
            self.reset()
        with self._env.begin(write=True) as txn:
            txn.put(_BOOT, self._boot_id.encode(), db=self._meta)
        self._env.sync(True)  # or a power cut could leave the note of a clean close beside a state that is none

    def _held(self, txn: lmdb.Transaction, stream: str, partition: int) -> _Held:
        raw = txn.get(_key(stream, partition), db=self._meta)
        return _held_from.decode(raw) if raw is not None else _Held()

    def _read(self, txn: lmdb.Transaction, table: "lmdb._Database", keys: list[bytes]) -> list[bytes | None]:
        get = txn.get
        # By position: naming the table costs as much again as the look-up.
        return [get(key, None, table) for key in keys]  # type: ignore[misc]  # buffers are not asked for

    def _write(self, txn: lmdb.Transaction, write: Write) -> None:
        database = self._tables[write.table]
        keys = _keys(write.partition, write.ids)
        puts = [(key, value) for key, value in zip(keys, write.values, strict=True) if value is not None]
        with txn.cursor(db=database) as cursor:
            cursor.putmulti(puts)
        if len(puts) < len(keys):
            for key, value in zip(keys, write.values, strict=True):
                if value is None:
                    txn.delete(key, db=database)


def boot_id() -> str:
    """The machine's boot id: another one means that unsynced pages are gone."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else "unknown"


def _key(stream: str, partition: int) -> bytes:
    return f"stream:{stream}:{partition}".encode()


def _keys(partition: int, ids: U64s) -> list[bytes]:
    if len(ids) < _FEW:  # one event at a time: numpy takes longer to begin than this takes to end
        head = partition.to_bytes(2, "big")
        return [head + node.to_bytes(8, "big") for node in ids.tolist()]
    packed = np.empty(len(ids), dtype=_KEY)
    packed["partition"], packed["id"] = partition, ids
    flat = packed.tobytes()
    return [flat[i : i + 10] for i in range(0, len(flat), 10)]
