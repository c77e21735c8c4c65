"""A new partition count: users whose partition is another one now have their events appended there again, as a redrive would.

The log stays the truth: where they lay they are misrouted from now on and count for nothing, and every later replay decides
so too. Each copy has the event's id, or its origin's name for one. What was moved is noted batch by batch, so that an
interrupted move goes on; only its last batch may come twice, and is then known by its ids.

    moved = move(site, source, former=4, now_ms=now_ms)
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from freshet.cluster import Services
from storage.log import Entry
from stream.ingest import EVENTS
from stream.routing import partitions_of
from stream.shape import Shape
from stream.validation import refusals
from stream.wire import Decoded

AT_ONCE: Final = 500


def move(site: Services, source: Iterator[tuple[int, Decoded]], *, former: int, now_ms: int) -> int:
    """Append again what no longer lies where it belongs; returns how many events. `former`: the partition count so far."""
    key = f"{site.prefix}:moving"
    done = {int(partition): tuple(msgspec.json.decode(at)) for partition, at in site.client.hgetall(key).items()}
    moved = 0
    for incarnation, decoded in source:
        last = decoded.records[-1]
        if (incarnation, last.offset) <= done.get(last.partition, (-1, -1)):
            continue
        entries = list(misplaced(decoded, incarnation, former=former, shape=site.shape))
        for begin in range(0, len(entries), AT_ONCE):
            site.log.append(EVENTS, entries[begin : begin + AT_ONCE], now_ms=now_ms)
        site.client.hset(key, str(last.partition), msgspec.json.encode([incarnation, last.offset]))
        moved += len(entries)
    return moved


def moved(site: Services) -> None:
    """Everything lies where it belongs: the notes are not needed any more."""
    site.client.delete(f"{site.prefix}:moving")


def misplaced(decoded: Decoded, incarnation: int, *, former: int, shape: Shape) -> Iterator[Entry]:
    """Copies of the valid events that lay right under `former` partitions and do not under the shape's."""
    append_ms = np.array([record.append_ms for record in decoded.records], dtype=np.int64)[decoded.record]
    valid = np.ones(len(decoded), dtype=np.bool_)
    valid[list(refusals(decoded.source, append_ms, shape))] = False
    rows = np.flatnonzero(valid)
    events = decoded.events.take(pa.array(rows))
    users = events.column("user_id")
    landed = np.array([record.partition for record in decoded.records], dtype=np.int64)[decoded.record[rows]]
    now = partitions_of(users, shape.partitions)
    chosen = np.flatnonzero((partitions_of(users, former) == landed) & (now != landed))
    for place, row in zip(chosen.tolist(), events.take(pa.array(chosen)).to_pylist(), strict=True):
        at = decoded.records[int(decoded.record[rows[place]])]
        name = f"{EVENTS}:{incarnation}:{at.partition}:{at.offset}:{int(decoded.index[rows[place]])}"
        yield Entry(int(now[place]), msgspec.json.encode(_fields(row, name)), key=row["user_id"].encode())


def _fields(row: dict[str, Any], name: str) -> dict[str, Any]:
    fields = {key: value for key, value in row.items() if value is not None}
    if "context" in fields:
        fields["context"] = msgspec.json.decode(fields["context"])
    return {"event_id": name} | fields
