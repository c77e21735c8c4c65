"""The synthetic world's pictures: 16 x 16 pixels whose colour and pattern give the topic away, as PNG.

Not an image library: it writes one kind of PNG (8-bit RGB, no filter, no interlace).

    body = png(draw(topic, topics=12, generator=generator))
"""

import colorsys
import struct
import zlib
from typing import Final

import numpy as np

from storage.arrays import U8s

SIDE: Final = 16
_NOISE: Final = 22.0


def draw(topic: int, *, topics: int, generator: np.random.Generator) -> U8s:
    """A picture (16, 16, 3): the hue is the topic's, so is the pattern (stripes, checks, disc or slope), the rest is chance."""
    hue = (topic / topics + float(generator.normal(0, 0.01))) % 1.0
    ink = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.9)) * 255
    paper = np.array(colorsys.hsv_to_rgb((hue + 0.08) % 1.0, 0.25, 0.97)) * 255
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    shift = int(generator.integers(4))
    patterns = (
        (x + shift) // 3 % 2 == 0,
        (x // 4 + y // 4 + shift) % 2 == 0,
        (x - 7.5) ** 2 + (y - 7.5) ** 2 < 20 + 6 * shift,
        x + y < SIDE - 2 + shift,
    )
    mask = patterns[topic % len(patterns)][:, :, None]  # (16, 16, 1)
    noisy = np.where(mask, ink, paper) + generator.normal(0, _NOISE, size=(SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: U8s) -> bytes:
    """Encode (H, W, 3) RGB pixels. Source: the PNG specification, chunks IHDR, IDAT, IEND; every row has filter type 0."""
    height, width, channels = pixels.shape
    assert channels == 3, f"RGB pixels wanted, got shape {pixels.shape}"
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, width * 3)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
