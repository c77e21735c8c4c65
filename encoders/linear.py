"""Weights of the linear models as a version carries them: of each item, its heaviest followers.

    linear = Linear.from_bytes(blob); blob = linear.to_bytes()

`trainers/linear.py` and `trainers/ease.py` fit them, `serving/linear.py` asks them. Next-item: a user's score for item f is the sum over
the bags b and over the last 60 likings of DECAYS[b]^p times the weight of f among the followers of the liking p places back. EASE: the sum
over all likings, without bags and places.

The file: `FRSHTLIN`, then format, items, followers of the next-item model and of EASE as u32, then ids u64 (I,), of the one and then of the
other followers u16 and weights f32, (B, I, K) and (I, E), all little-endian. It is bounded: 4,096 items are 19 MB. A registry checks it by
its checksum; here what cannot be asked is refused.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import F32s, U16s, U64s

BAG_ITEMS: Final = 60
DECAYS: Final = (0.5, 0.9)
"""The next-item bags' decays and how far back they look. Source: the evaluation protocol, section 2."""
ITEMS_MAX: Final = 4_096
FOLLOWERS_MAX: Final = 128
"""Of each item and bag: see `trainers/linear.py` for how it was chosen."""
EASE_FOLLOWERS_MAX: Final = 512
_MAGIC: Final = b"FRSHTLIN"
_HEAD: Final = struct.Struct("<8s4I")
_FORMAT: Final = 2


@dataclass(frozen=True)
class Linear:
    """ids (I,); followers (B, I, K) and ease_followers (I, E) are places among the ids, their weights 0 where there are fewer.

    Without items it says nothing.
    """

    ids: U64s
    followers: U16s
    weights: F32s
    ease_followers: U16s
    ease_weights: F32s

    def __post_init__(self) -> None:
        items, bags = len(self.ids), len(DECAYS)
        for followers, weights, shape in (
            (self.followers, self.weights, (bags, items)),
            (self.ease_followers, self.ease_weights, (items,)),
        ):
            if weights.shape[:-1] != shape or followers.shape != weights.shape:
                raise ValueError(f"linear weights of {items} ids are {(*shape, 'followers')}, not {weights.shape}, {followers.shape}")
            if items > ITEMS_MAX or weights.shape[-1] > items:
                raise ValueError(
                    f"linear weights are of at most {ITEMS_MAX} items and as many followers, not {items} and {weights.shape[-1]}"
                )
            if followers.size and followers.max() >= items:
                raise ValueError(f"a follower is one of {items} items, not number {followers.max()}")
            if not np.isfinite(weights).all():
                raise ValueError("a linear weight is NaN or infinite: train the version anew")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def none(cls) -> "Linear":
        """What a version has that was not given any: the sources say nothing."""
        shape = (len(DECAYS), 0, 0)
        nothing = np.empty(shape, np.uint16), np.empty(shape, np.float32), np.empty((0, 0), np.uint16), np.empty((0, 0), np.float32)
        return cls(np.empty(0, np.uint64), *nothing)

    def to_bytes(self) -> bytes:
        """Bytes that `from_bytes` reads back to the bit."""
        head = _HEAD.pack(_MAGIC, _FORMAT, len(self), self.weights.shape[-1], self.ease_weights.shape[-1])
        parts = (self.ids, self.followers, self.weights, self.ease_followers, self.ease_weights)
        return b"".join((head, *(part.tobytes() for part in parts)))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Linear":
        """Raises ValueError for what is no whole file of this format."""
        if len(blob) < _HEAD.size or blob[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{len(blob)} bytes are no file of linear weights: it begins with {_MAGIC!r}")
        _, version, items, followers, ease_followers = _HEAD.unpack_from(blob)
        if version != _FORMAT:
            raise ValueError(f"linear weights of format {version}; this release reads format {_FORMAT}: train the version anew")
        cells, ease_cells = len(DECAYS) * items * followers, items * ease_followers
        size = _HEAD.size + 8 * items + (2 + 4) * (cells + ease_cells)
        if len(blob) != size:
            raise ValueError(
                f"linear weights of {items} items, {followers} and {ease_followers} followers are {size} bytes, not {len(blob)}"
            )
        at, arrays = _HEAD.size, []
        shape, ease_shape = (len(DECAYS), items, followers), (items, ease_followers)
        for kind, count, its in (
            ("<u8", items, (items,)),
            ("<u2", cells, shape),
            ("<f4", cells, shape),
            ("<u2", ease_cells, ease_shape),
            ("<f4", ease_cells, ease_shape),
        ):
            arrays.append(np.frombuffer(blob, kind, count, at).reshape(its))
            at += arrays[-1].nbytes
        return cls(*arrays)
