"""The archive: every event in Parquet by offset range; training and replay do not depend on what the log still holds.

Files are named by topic, incarnation, partition, offset range and the append number their roll began with, so that what
is there is known without an index and overlaps are dropped by offset. They appear whole or not at all.

    archive = Archive(Path("data/archive")); archive.add(table); archive.flush()
    for table in archive.scan("events"): ...
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

from storage.columns import ARCHIVE_SCHEMA
from storage.files import aside, sweep

_NAME: Final = re.compile(r"(?P<topic>[a-z-]+)-i(?P<inc>\d+)-p(?P<partition>\d+)-o(?P<first>\d+)-(?P<end>\d+)-n(?P<number>\d+)\.parquet")


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
        self._rows = 0
        self._published = {p: end for (inc, p), end in self._stored_ends().items() if inc == incarnation}
        self._ends = dict(self._published)

    def position(self, partition: int) -> int:
        """The next offset to archive, counting what waits in memory."""
        return self._ends.get(partition, 0)

    def published(self, partition: int) -> int:
        """The next offset that no published file holds."""
        return self._published.get(partition, 0)

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows in the order of their appends; those archived already are dropped. Writes a roll when enough wait."""
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
        if self._rows >= self._roll_rows_max:
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
            name = f"{self._topic}-i{self._incarnation}-p{partition}-o{first:012d}-{end:012d}-n{number:012d}.parquet"
            if not (self._folder / name).exists():
                with aside(self._folder / name) as path:
                    pq.write_table(
                        rows, path, compression="zstd", compression_level=1, use_dictionary=["user_id", "item_id", "action", "surface"]
                    )
            self._published[partition] = end
        self._waiting, self._rows = [], 0

    def scan(self, *, below: int | None = None) -> Iterator[pa.Table]:
        """Rows in the order of their appends, a roll at a time, those numbered below `below`. Raises `ArchiveDamaged`."""
        ends: dict[tuple[int, int], int] = {}
        rolls: dict[tuple[int, int], list[Part]] = {}
        for part in self.parts():
            rolls.setdefault((part.incarnation, part.number), []).append(part)
        for (_, number), parts in sorted(rolls.items()):
            if below is not None and number >= below:
                continue
            tables = []
            for part in parts:
                table = _read(part.path)
                done = ends.get((part.incarnation, part.partition), 0)
                if part.first < done:
                    table = table.filter(pc.greater_equal(table.column("offset"), done))
                ends[part.incarnation, part.partition] = max(done, part.end)
                tables.append(table)
            whole = pa.concat_tables(tables)
            if len(tables) > 1:
                whole = whole.sort_by([("number", "ascending"), ("index", "ascending")])
            if below is not None:
                whole = whole.filter(pc.less(whole.column("number"), below))
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
                Part(int(match["inc"]), int(match["number"]), int(match["partition"]), int(match["first"]), int(match["end"]), path)
            )
        return sorted(found)

    def _stored_ends(self) -> dict[tuple[int, int], int]:
        ends: dict[tuple[int, int], int] = {}
        for part in self.parts():
            key = (part.incarnation, part.partition)
            ends[key] = max(ends.get(key, 0), part.end)
        return ends


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveDamaged(
            f"{path} cannot be read ({error}); restore it from a copy, or move it away and accept the loss on record"
        ) from error
    if not table.schema.equals(ARCHIVE_SCHEMA):
        raise ArchiveDamaged(f"{path} has other columns than this version writes; it was written by another version of freshet")
    return table
