"""The archive: every event in Parquet by offset range; training and replay do not depend on what the log still holds.

Files are named by topic, incarnation, partition, offset range, the append number their roll began with and the xxh3-64
of their bytes, so that what is there is known without an index, overlaps are dropped by offset and a flipped bit is
noticed. They appear whole or not at all.

    archive = Archive(Path("data/archive")); archive.add(rows); archive.flush()
    for table in archive.scan(): ...
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from storage.columns import ARCHIVE_SCHEMA
from storage.files import sweep, write_file

ROLL_BYTES_MAX: Final = 128 << 20
"""A roll is also written when its rows take this much memory: refused messages may be 64 KiB each."""
_NAME: Final = re.compile(
    r"(?P<topic>[a-z-]+)-i(?P<inc>\d+)-p(?P<partition>\d+)-o(?P<first>\d+)-(?P<end>\d+)-n(?P<number>\d+)-x(?P<sum>[0-9a-f]{16})\.parquet"
)


class ArchiveDamaged(RuntimeError):
    """A file of the archive cannot be read; the message names it and the way out."""


@dataclass(frozen=True, order=True)
class Part:
    """One file: offsets [first, end) of a partition, from the roll that began at append number `number`."""

    incarnation: int
    number: int
    partition: int
    first: int
    end: int
    checksum: str
    path: Path


class Archive:
    """Appends rolls of rows; one writer. `roll_rows_max` bounds what waits in memory and what a crash makes us read again."""

    def __init__(
        self, folder: Path, *, topic: str = "events", incarnation: int = 0, roll_rows_max: int = 262_144, read_only: bool = False
    ) -> None:
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        self._folder, self._topic, self._incarnation, self._roll_rows_max = folder, topic, incarnation, roll_rows_max
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._published = {p: end for (inc, p), end in self._stored_ends().items() if inc == incarnation}
        self._ends = dict(self._published)

    def position(self, partition: int) -> int:
        """The next offset to archive, counting what waits in memory."""
        return self._ends.get(partition, 0)

    def published(self, partition: int) -> int:
        """The next offset that no published file holds."""
        return self._published.get(partition, 0)

    def add(self, rows: pa.RecordBatch) -> None:
        """Take whole records in the order of their appends; those archived already are dropped. Writes a roll when enough wait."""
        partitions = rows.column("partition").to_numpy()
        offsets = rows.column("offset").to_numpy()
        fresh = np.ones(len(offsets), dtype=np.bool_)
        for partition in np.unique(partitions).tolist():
            here = partitions == partition
            fresh &= ~here | (offsets >= self.position(partition))
            self._ends[partition] = max(self.position(partition), int(offsets[here].max()) + 1)
        if not fresh.all():
            rows = rows.filter(pa.array(fresh))
        if rows.num_rows:
            self._waiting.append(rows)
            self._rows += rows.num_rows
            self._bytes += rows.nbytes
        if self._rows >= self._roll_rows_max or self._bytes >= ROLL_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what waits, one file a partition, each published once it is whole. Raises `files.DiskFull`; nothing is dropped."""
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, ARCHIVE_SCHEMA)
        number = table.column("number")[0].as_py()
        for partition in pc.unique(table.column("partition")).to_pylist():
            rows = table.filter(pc.equal(table.column("partition"), partition))
            first, end = rows.column("offset")[0].as_py(), rows.column("offset")[-1].as_py() + 1
            self._publish(partition, range(first, end), number, rows)
        self._waiting, self._rows, self._bytes = [], 0, 0

    def give_up(self, partition: int, end: int, *, number: int) -> None:
        """Publish that nothing is known of the offsets from `published` to `end`, exclusive: a file without rows."""
        self._publish(partition, range(self.published(partition), end), number, ARCHIVE_SCHEMA.empty_table())
        self._ends[partition] = max(self.position(partition), end)

    def _publish(self, partition: int, offsets: range, number: int, rows: pa.Table) -> None:
        body = _encoded(rows)
        path = self._folder / (
            f"{self._topic}-i{self._incarnation}-p{partition}-o{offsets.start:012d}-{offsets.stop:012d}-n{number:012d}"
            f"-x{_checksum(body)}.parquet"
        )
        if not path.exists():
            write_file(path, body)
        self._published[partition] = offsets.stop

    def scan(self, *, below: int | None = None) -> Iterator[pa.Table]:
        """Rows in the order of their appends, a roll at a time, those numbered below `below`. Raises `ArchiveDamaged`.

        After a crash between two files of a roll the next roll holds the rest of it: rows wait for those numbered before them.
        """
        ends: dict[tuple[int, int], int] = {}
        rolls: dict[tuple[int, int], list[Part]] = {}
        for part in self.parts():
            if below is None or part.number < below:
                rolls.setdefault((part.incarnation, part.number), []).append(part)
        begins = sorted(rolls)
        early: list[pa.Table] = []
        for begin, following in zip(begins, [*begins, (-1, 0)][1:], strict=True):
            tables = [*early, *(_fresh(part, ends) for part in rolls[begin])]
            whole, early = pa.concat_tables(tables), []
            if len(tables) > 1:
                whole = whole.sort_by([("number", "ascending"), ("index", "ascending")])
            if below is not None:
                whole = whole.filter(pc.less(whole.column("number"), below))
            if following[0] == begin[0] and whole.num_rows and whole.column("number")[-1].as_py() >= following[1]:
                early = [whole.filter(pc.greater_equal(whole.column("number"), following[1]))]
                whole = whole.slice(0, whole.num_rows - early[0].num_rows)
            if whole.num_rows:
                yield whole

    def parts(self) -> list[Part]:
        """All published files, in replay order."""
        found = []
        for path in self._folder.glob(f"{self._topic}-i*.parquet"):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise ArchiveDamaged(f"{path} is not named like an archive file; move it elsewhere")
            found.append(
                Part(
                    int(match["inc"]),
                    int(match["number"]),
                    int(match["partition"]),
                    first=int(match["first"]),
                    end=int(match["end"]),
                    checksum=match["sum"],
                    path=path,
                )
            )
        return sorted(found)

    def _stored_ends(self) -> dict[tuple[int, int], int]:
        ends: dict[tuple[int, int], int] = {}
        for part in self.parts():
            key = (part.incarnation, part.partition)
            ends[key] = max(ends.get(key, 0), part.end)
        return ends


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", compression_level=1, use_dictionary=["user_id", "item_id", "action", "surface"])
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _checksum(body: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(body)


def _fresh(part: Part, ends: dict[tuple[int, int], int]) -> pa.Table:
    """The file's rows from where the partition's files before it ended; notes where it ends itself."""
    table, stream = _read(part), (part.incarnation, part.partition)
    done = ends.get(stream, 0)
    ends[stream] = max(done, part.end)
    return table.filter(pc.greater_equal(table.column("offset"), done)) if part.first < done else table


def _read(part: Part) -> pa.Table:
    """A file's rows. Parquet has no checksum of its footer, so all bytes are compared with the one in the name."""
    try:
        body = part.path.read_bytes()
        if _checksum(body) != part.checksum:
            raise OSError(f"its {len(body)} bytes are not those that were written")
        table = pq.read_table(pa.BufferReader(body))
    except (pa.ArrowException, OSError) as error:
        raise ArchiveDamaged(
            f"{part.path} cannot be read ({error}); restore it from a copy, or move it away and accept the loss on record"
        ) from error
    if not table.schema.equals(ARCHIVE_SCHEMA):
        raise ArchiveDamaged(f"{part.path} has other columns than this version writes; it was written by another version of freshet")
    return table
