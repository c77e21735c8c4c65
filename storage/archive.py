"""The archive: every event in Parquet by offset range; training and replay do not depend on what the log still holds.

Files are named by topic, incarnation, partition, offset range, the append number their roll began with and the xxh3-64
of their bytes, so that what is there is known without an index, overlaps are dropped by offset and a flipped bit is
noticed. They appear whole or not at all, in a folder or in any other place (`storage/places.py`).

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
from storage.places import LocalPlace, Place

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
    """Appends rolls of rows; one writer a partition. `roll_rows_max` bounds what waits in memory and what a crash makes us read again.

    Positions and numbers are those of one incarnation of the topic, `incarnation`: the newest archived, until `accept` tells another.
    """

    def __init__(
        self,
        place: Path | Place,
        *,
        topic: str = "events",
        incarnation: int | None = None,
        roll_rows_max: int = 262_144,
        read_only: bool = False,
    ) -> None:
        self._place = LocalPlace(place) if isinstance(place, Path) else place
        if not read_only:
            self._place.prepare()
        self._topic, self._roll_rows_max = topic, roll_rows_max
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self.incarnation = max((part.incarnation for part in self.parts()), default=0)
        if incarnation is not None:
            if not read_only:
                self._check_onward(incarnation)
            self.incarnation = incarnation
        self._published = self._stored_ends()
        self._ends = dict(self._published)

    def position(self, partition: int) -> int:
        """The next offset to archive, counting what waits in memory."""
        return self._ends.get(partition, 0)

    def published(self, partition: int) -> int:
        """The next offset that no published file holds."""
        return self._published.get(partition, 0)

    def accept(self, incarnation: int) -> None:
        """Go on with the topic's `incarnation`: what waits is written under the one before, then positions are read again from the files.

        The same incarnation again is fine, and tells what others have archived since. Raises ValueError for an earlier one,
        `files.DiskFull`.
        """
        self._check_onward(incarnation)
        self.flush()
        self.incarnation = incarnation
        self._published = self._stored_ends()
        self._ends = dict(self._published)

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
        number = pc.min(table.column("number")).as_py()
        for partition in pc.unique(table.column("partition")).to_pylist():
            rows = table.filter(pc.equal(table.column("partition"), partition))
            first, end = rows.column("offset")[0].as_py(), rows.column("offset")[-1].as_py() + 1
            self._publish(partition, range(first, end), number, rows)
        self._waiting, self._rows, self._bytes = [], 0, 0

    def give_up(self, partition: int, end: int, *, number: int) -> None:
        """Publish that nothing is known of the offsets from `published` to `end`, exclusive: a file without rows."""
        self._publish(partition, range(self.published(partition), end), number, ARCHIVE_SCHEMA.empty_table())
        self._ends[partition] = max(self.position(partition), end)

    def _check_onward(self, incarnation: int) -> None:
        if incarnation < self.incarnation:
            raise ValueError(
                f"the archive of {self._topic!r} is at incarnation {self.incarnation} and takes no rows of {incarnation}: "
                "use the archive that belongs to this state, or another place"
            )

    def _publish(self, partition: int, offsets: range, number: int, rows: pa.Table) -> None:
        body = _encoded(rows)
        name = (
            f"{self._topic}-i{self.incarnation}-p{partition}-o{offsets.start:012d}-{offsets.stop:012d}-n{number:012d}"
            f"-x{_checksum(body)}.parquet"
        )
        if not self._place.has(name):
            self._place.write(name, body)
        self._published[partition] = offsets.stop

    def scan(self, *, below: int | None = None) -> Iterator[pa.Table]:
        """Rows in the order of their appends, a roll at a time; `below`: as of append `below` of `incarnation`. Raises `ArchiveDamaged`."""
        for _, rows in self.rolls(below=below):
            yield rows

    def rolls(self, *, below: int | None = None) -> Iterator[tuple[int, pa.Table]]:
        """`scan`, and of which incarnation the rows are: an earlier one's come first, whatever their numbers.

        After a crash between two files of a roll the next roll holds the rest of it: rows wait for those numbered before them.
        """
        parts = self.parts()
        begun = _overlaps(parts)
        rolls: dict[tuple[int, int], list[Part]] = {}
        for part in parts:
            if below is None or (part.incarnation, part.number) < (self.incarnation, below):
                rolls.setdefault((part.incarnation, part.number), []).append(part)
        begins = sorted(rolls)
        early: list[pa.Table] = []
        for begin, following in zip(begins, [*begins, (-1, 0)][1:], strict=True):
            tables = [*early, *(self._fresh(part, begun[part]) for part in rolls[begin])]
            whole, early = pa.concat_tables(tables), []
            if len(tables) > 1:
                whole = whole.sort_by([("number", "ascending"), ("partition", "ascending"), ("index", "ascending")])
            if below is not None and begin[0] == self.incarnation:
                whole = whole.filter(pc.less(whole.column("number"), below))
            if following[0] == begin[0] and whole.num_rows and whole.column("number")[-1].as_py() >= following[1]:
                early = [whole.filter(pc.greater_equal(whole.column("number"), following[1]))]
                whole = whole.slice(0, whole.num_rows - early[0].num_rows)
            if whole.num_rows:
                yield begin[0], whole

    def parts(self) -> list[Part]:
        """All published files, in replay order."""
        found = []
        for name in self._place.names():
            if not (name.startswith(f"{self._topic}-i") and name.endswith(".parquet")):
                continue
            path, match = self._place.path(name), _NAME.fullmatch(name)
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

    def _stored_ends(self) -> dict[int, int]:
        ends: dict[int, int] = {}
        for part in self.parts():
            if part.incarnation == self.incarnation:
                ends[part.partition] = max(ends.get(part.partition, 0), part.end)
        return ends

    def _fresh(self, part: Part, begin: int) -> pa.Table:
        """The file's rows from offset `begin` on."""
        table = self._read(part)
        return table.filter(pc.greater_equal(table.column("offset"), begin)) if part.first < begin else table

    def _read(self, part: Part) -> pa.Table:
        """A file's rows. Parquet has no checksum of its footer, so all bytes are compared with the one in the name."""
        try:
            body = self._place.read(part.path.name)
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


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", compression_level=1, use_dictionary=["user_id", "item_id", "action", "surface"])
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _checksum(body: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(body)


def _overlaps(parts: list[Part]) -> dict[Part, int]:
    """By file, from which offset on it is the first to hold its rows."""
    ends: dict[tuple[int, int], int] = {}
    begins = {}
    for part in sorted(parts, key=lambda part: (part.first, part.end)):
        stream = (part.incarnation, part.partition)
        begins[part] = ends.get(stream, 0)
        ends[stream] = max(begins[part], part.end)
    return begins
