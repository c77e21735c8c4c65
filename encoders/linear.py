"""Weights of the linear next-item model as a version carries them: of each item and bag, the heaviest followers.

    linear = Linear.from_bytes(blob); blob = linear.to_bytes()

`trainers/linear.py` fits them, `serving/linear.py` asks them. A user's score for item f is the sum over the bags b and over the last 60
likings of DECAYS[b]^p times the weight of f among the followers of the liking p places back.

The file: `FRSHTLIN`, then format, bags, items and followers as u32, then ids u64 (I,), followers u16 (B, I, K), weights f32 (B, I, K), all
little-endian. It is bounded: 4,096 items of 128 followers are 6.3 MB. A registry checks it by its checksum; here what cannot be asked is
refused.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import F32s, U16s, U64s

BAG_ITEMS: Final = 60
DECAYS: Final = (0.5, 0.9)
"""The bags' decays and how far back they look. Source: the evaluation protocol, section 2."""
ITEMS_MAX: Final = 4_096
FOLLOWERS_MAX: Final = 128
"""Of each item and bag: see `trainers/linear.py` for how it was chosen."""
_MAGIC: Final = b"FRSHTLIN"
_HEAD: Final = struct.Struct("<8s4I")
_FORMAT: Final = 1


@dataclass(frozen=True)
class Linear:
    """ids (I,); followers (B, I, K) are places among the ids, weights (B, I, K), 0 where there are fewer. Without items it says nothing."""

    ids: U64s
    followers: U16s
    weights: F32s

    def __post_init__(self) -> None:
        shape = self.weights.shape
        if len(shape) != 3 or shape[0] != len(DECAYS) or shape[1] != len(self.ids) or self.followers.shape != shape:
            raise ValueError(f"linear weights are ({len(DECAYS)}, items, followers): {len(self.ids)} ids, {shape}, {self.followers.shape}")
        if len(self.ids) > ITEMS_MAX or shape[2] > len(self.ids):
            raise ValueError(f"linear weights are of at most {ITEMS_MAX} items and as many followers, not {len(self.ids)} and {shape[2]}")
        if self.followers.size and self.followers.max() >= len(self.ids):
            raise ValueError(f"a follower is one of {len(self.ids)} items, not number {self.followers.max()}")
        if not np.isfinite(self.weights).all():
            raise ValueError("a linear weight is NaN or infinite: train the version anew")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls) -> "Linear":
        """What a version has that was not given any: the source says nothing."""
        return cls(np.empty(0, np.uint64), np.empty((len(DECAYS), 0, 0), np.uint16), np.empty((len(DECAYS), 0, 0), np.float32))

    def to_bytes(self) -> bytes:
        """Bytes that `from_bytes` reads back to the bit."""
        head = _HEAD.pack(_MAGIC, _FORMAT, *self.weights.shape)
        return b"".join((head, self.ids.tobytes(), self.followers.tobytes(), self.weights.tobytes()))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Linear":
        """Raises ValueError for what is no whole file of this format."""
        if len(blob) < _HEAD.size or blob[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{len(blob)} bytes are no file of linear weights: it begins with {_MAGIC!r}")
        _, version, bags, items, followers = _HEAD.unpack_from(blob)
        if version != _FORMAT:
            raise ValueError(f"linear weights of format {version}; this release reads format {_FORMAT}: train the version anew")
        cells = bags * items * followers
        size = _HEAD.size + 8 * items + (2 + 4) * cells
        if len(blob) != size:
            raise ValueError(f"linear weights of {items} items, {followers} followers are {size} bytes, not {len(blob)}")
        shape = (bags, items, followers)
        middle = _HEAD.size + 8 * items
        return cls(
            np.frombuffer(blob, "<u8", items, _HEAD.size),
            np.frombuffer(blob, "<u2", cells, middle).reshape(shape),
            np.frombuffer(blob, "<f4", cells, middle + 2 * cells).reshape(shape),
        )
