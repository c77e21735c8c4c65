"""freshet's own forms: JSON lines, one event a line, and Parquet with the event's columns.

rows = json_rows(path); rows = parquet_rows(path)
"""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import pyarrow
import pyarrow.parquet

from freshet.readers.lines import SAMPLE_MAX, SECONDS_BELOW, TIME_MS_MAX, Times, iterate
from freshet.readers.source import BadLine, BrokenFile, Row, UnknownLayout
from freshet.readers.tables import BEHAVIOURS, RATED, ROLES
from stream.events import Event

BATCH_ROWS: Final = 4_096
_DECODER: Final = msgspec.json.Decoder(Event)
_DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_EXTRA: Final = ("shown", "context", "schema")


def json_rows(path: Path) -> Iterator[Row]:
    """One row a line. JSON is UTF-8: a line that is not costs that line, not the file's encoding."""
    for line in iterate(path):
        if not line.whole:
            yield Row(line.number, None, line.raw, "line too long")
            continue
        try:
            event = _DECODER.decode(line.raw)
        except _DECODE_ERRORS as error:
            yield Row(line.number, None, line.raw, str(error))
        else:
            yield Row(line.number, event, line.raw)


def count_json_rows(path: Path) -> int:
    """How many rows `json_rows` yields; reads the file once."""
    return sum(1 for _ in iterate(path))


def open_parquet(path: Path) -> tuple[pyarrow.parquet.ParquetFile, dict[str, str]]:
    """The file and its columns by role. Raises `UnknownLayout` if it is damaged or names no user and item."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UnknownLayout(path, f"begins like Parquet but cannot be read ({str(error).splitlines()[0]})") from None
    columns: dict[str, str] = {}
    for name in file.schema_arrow.names:
        role = ROLES.get(name.lower(), name if name in _EXTRA else "")
        if role and role not in columns:
            columns[role] = name
    if not {"user_id", "item_id"} <= columns.keys():
        raise UnknownLayout(path, f"Parquet without user_id and item_id columns (has {', '.join(file.schema_arrow.names[:12])})")
    return file, columns


def parquet_rows(path: Path) -> Iterator[Row]:
    """One row a record, numbered from 1; `raw` is the record as JSON. Raises `BrokenFile` where reading stops."""
    times: Times | None = None
    for place, record in enumerate(_records(path)):
        if times is None:
            times = _unit(path, record)
        raw = msgspec.json.encode({name: value for name, value in record.items() if value is not None}, enc_hook=str)
        try:
            yield Row(place + 1, _event(record, place, times), raw)
        except (BadLine, msgspec.ValidationError) as error:
            yield Row(place + 1, None, raw, str(error))


def _records(path: Path) -> Iterator[dict[str, Any]]:  # cells are whatever types the file has
    file, columns = open_parquet(path)
    read = 0
    try:
        with file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns.values())):
                arrays = [_milliseconds(batch.column(name)) for name in columns.values()]
                for record in pyarrow.RecordBatch.from_arrays(arrays, names=list(columns)).to_pylist():
                    yield record
                    read += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise BrokenFile(f"{path}: cannot be read after row {read} ({str(error).splitlines()[0]})") from None


def _milliseconds(column: Any) -> Any:  # pyarrow ships no types
    if not pyarrow.types.is_timestamp(column.type):
        return column
    return column.cast(pyarrow.timestamp("ms"), safe=False).cast(pyarrow.int64())


def _unit(path: Path, first: dict[str, Any]) -> Times:
    if "time" not in first:
        return Times(1)
    times = (record["time"] for record in islice(_records(path), SAMPLE_MAX))
    sample = [time for time in times if isinstance(time, int | float) and math.isfinite(time)]
    return Times(1000 if sample and abs(median(sample)) < SECONDS_BELOW else 1)


def _event(record: dict[str, Any], place: int, times: Times) -> Event:
    fields = {name: value for name, value in record.items() if value is not None and name != "time"}
    if "time" in record:
        fields["ts_ms"] = _whole_ms(record["time"], times)
    else:
        fields["ts_ms"] = Times.invented(place)
    for name in ("user_id", "item_id"):
        if isinstance(fields.get(name), int):  # numbered ids are common; ours are strings
            fields[name] = str(fields[name])
    if isinstance(fields.get("context"), list):  # a Parquet map
        fields["context"] = dict(fields["context"])
    action = fields.get("action", RATED)
    fields["action"] = BEHAVIOURS.get(action, action) if isinstance(action, str) else action
    return msgspec.convert(fields, Event)


def _whole_ms(time: Any, times: Times) -> int:
    if not isinstance(time, int | float) or not abs(time) * times.scale < TIME_MS_MAX:
        raise BadLine(f"time {str(time)[:40]!r} is not a time")
    return round(time * times.scale)
