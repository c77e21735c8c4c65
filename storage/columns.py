"""The columns of an event, as Arrow: what packs carry, what the archive keeps, what training reads."""

from typing import Final

import pyarrow as pa

EVENT_SCHEMA: Final = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("action", pa.string()),
        pa.field("ts_ms", pa.int64()),
        pa.field("item_id", pa.string()),
        pa.field("surface", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("collection_id", pa.string()),
        pa.field("source_item_id", pa.string()),
        pa.field("shown", pa.list_(pa.string())),
        pa.field("query", pa.string()),
        pa.field("dwell_ms", pa.int64()),
        pa.field("value", pa.float64()),
        pa.field("context", pa.string()),
        pa.field("schema", pa.int16()),
        pa.field("extra", pa.string()),
    ]
)
"""One row an event. `context` is a JSON object; `extra` is the whole JSON text of an event that had unknown fields."""

ORIGIN_SCHEMA: Final = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("index", pa.int32()),
        pa.field("append_ms", pa.int64()),
        pa.field("bad", pa.binary()),
        pa.field("reason", pa.string()),
    ]
)
"""Where a row landed; `bad` and `reason` only for what is no event."""

ARCHIVE_SCHEMA: Final = pa.schema([*ORIGIN_SCHEMA, *EVENT_SCHEMA])
