"""The record: what a producer sends, field by field, and when it is refused.

The one module of this folder that others may import. `stream/validation.py` decides what is accepted.

    event = msgspec.json.decode(body, type=Event)
"""

from typing import Annotated, Final

import msgspec

ID_BYTES_MAX: Final = 256
TEXT_BYTES_MAX: Final = 16_384
SHOWN_MAX: Final = 50
CONTEXT_BYTES_MAX: Final = 8192
COLLECTIONS_MAX: Final = 256
IMAGE_BYTES_MAX: Final = 262_144
FUTURE_MS_MAX: Final = 86_400_000
SCHEMA: Final = 1

Scalar = str | int | float | bool | None
Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Small = Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]


class Event(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One engagement. Times are UTC milliseconds; `item_id` is required unless the action is `search`, then `query` is.

    `extra` is ours: the whole text of an event that carried fields we do not know.
    """

    user_id: str
    action: str
    ts_ms: Whole
    item_id: str | None = None
    event_id: str | None = None
    surface: str | None = None
    session_id: str | None = None
    collection_id: str | None = None
    source_item_id: str | None = None
    shown: list[str] = []
    query: str | None = None
    dwell_ms: Whole | None = None
    value: float | None = None
    context: dict[str, Scalar] = {}
    schema: Small = SCHEMA
    extra: str | None = None


class Entity(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of an item, a collection or a query. The highest (`ts_ms`, offset) wins; `deleted` hides it."""

    kind: str
    id: str
    title: str = ""
    text: str = ""
    image: bytes | list[float] | None = None
    attributes: dict[str, Scalar | list[str]] = {}
    collections: list[str] = []
    ts_ms: Whole = 0
    deleted: bool = False
