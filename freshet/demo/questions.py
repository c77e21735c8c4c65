"""What the stream tells the process that ranks: models and their vectors as they change, what is asked, what was taken.

Arrays travel as their bytes. A message stands on the pipe behind its length.

    write(pipe, Took("u1", 7)); message = read(pipe, MESSAGES)
"""

from typing import IO, Final, TypeAlias, TypeVar

import msgspec

MODEL_SYSTEMS: Final = ("model", "neural", "frozen", "counting_blend")
"""What a question is ranked by, in this order, before the counting baselines."""
_LENGTH_BYTES: Final = 4


class Items(msgspec.Struct, tag=True, array_like=True):
    """The next rows of the catalogue: `ids` u64."""

    ids: bytes


class Vectors(msgspec.Struct, tag=True, array_like=True):
    """What changed in a collection: `rows` f32 (N, dim) of `ids` u64 (N,), and the ids that have none any more."""

    collection: str
    dim: int
    ids: bytes
    rows: bytes
    gone: bytes


class Version(msgspec.Struct, tag=True, array_like=True):
    """A model version: its blends as JSON, and the user encoder's parts: weights f32, places i64 (M, 3), bias f32 of `bias_shape`."""

    name: str
    collection: str
    blend: str
    counting: str
    temperature: float
    history_len: int
    weights: bytes
    places: bytes
    bias: bytes
    bias_shape: tuple[int, int, int]


class Question(msgspec.Struct, array_like=True):
    """One look-up: the history (items u64, actions u8, ts_ms i64), the candidates' rows u32 (C,), their counting columns f64 (S - 1, C).

    `weights` f64 (S,) are those the live model answers with, by source. `frozen_linear` f64 (2, C) is what the frozen version's linear
    sources say instead; empty where that is the live version. `at` is the place of what was taken among the candidates; `live` and `frozen`
    name versions, if there are any.
    """

    now_ms: int
    items: bytes
    actions: bytes
    ts_ms: bytes
    rows: bytes
    counts: bytes
    weights: bytes
    frozen_linear: bytes
    at: int
    live: str | None
    frozen: str | None


class Asked(msgspec.Struct, tag=True, array_like=True):
    """An item to be ranked by all systems. Without a question it was not retrieved: `missed` is then every model's rank."""

    user_id: str
    row: int
    missed: int
    question: Question | None


class Took(msgspec.Struct, tag=True, array_like=True):
    """A user took an item for the first time."""

    user_id: str
    row: int


class Tell(msgspec.Struct, tag=True, array_like=True):
    """Answer with what was ranked since the last time."""


class Ranks(msgspec.Struct, tag=True, array_like=True):
    """The answer: a list of ranks by question, in order, and the process's peak memory."""

    ranks: list[list[int]]
    rss_mb: float


Message: TypeAlias = Items | Vectors | Version | Asked | Took | Tell
T = TypeVar("T")


def write(pipe: IO[bytes], message: Message | Ranks) -> None:
    """It is on its way when the pipe's buffer is full or flushed. Waits while the pipe is full."""
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(body)


def read(pipe: IO[bytes], decoder: "msgspec.msgpack.Decoder[T]") -> T | None:
    """The next message; None where the other side has closed."""
    head = pipe.read(_LENGTH_BYTES)
    body = pipe.read(int.from_bytes(head, "little"))
    return decoder.decode(body) if len(head) == _LENGTH_BYTES else None
