"""Hashed text: words, character trigrams and attributes as rows of one small table; no vocabulary to build, keep or outgrow.

Every token owns two rows (two hashes), so two tokens rarely share both. What this is not: a language model, or a search index.

    text = tokens(["Toy Story (1995)"], [{"genre": ["Animation", "Comedy"]}])       # Ragged: two rows per token
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import xxhash

from encoders.base import Ragged

TEXT_ROWS: Final = 2**15
HASHES: Final = 2
TOKENS_MAX: Final = 96
WORD_CHARS_MAX: Final = 32
CACHED_TOKENS_MAX: Final = 2**16
WORD = re.compile(r"[^\W_]+")

Attributes = Mapping[str, object]


def tokens(texts: Sequence[str], attributes: Sequence[Attributes] | None = None, *, tokens_max: int = TOKENS_MAX) -> Ragged:
    """Rows of the hashed table for each text with its attributes: two per token, at most `tokens_max` tokens a text.

    Attributes come first, then words, then trigrams, so a long text loses its trigrams before its genre. A token counts once per text.
    Source: OmniSearchSage's text tower (papers, 2.2). We differ: one table for words and trigrams, no bigrams, no learned token weights.

    >>> len(tokens(["Heat"], [{"genre": "Crime"}]).values) // HASHES     # genre=crime, heat, #he hea eat at#
    6
    """
    described = attributes if attributes is not None else [{}] * len(texts)
    assert len(described) == len(texts), f"{len(texts)} texts, {len(described)} attribute maps"
    rows: list[int] = []
    offsets = [0]
    for text, facts in zip(texts, described, strict=True):
        for token in pieces(text, facts, tokens_max=tokens_max):
            rows.extend(hashed_rows(token))
        offsets.append(len(rows))
    return Ragged(np.array(rows, dtype=np.int64), np.array(offsets, dtype=np.int64))


def pieces(text: str, attributes: Attributes, *, tokens_max: int = TOKENS_MAX) -> list[str]:
    """The distinct tokens of one text and its attributes, most telling first, at most `tokens_max`."""
    words = [word[:WORD_CHARS_MAX] for word in WORD.findall(text.lower()[: 64 * tokens_max])]
    found: dict[str, None] = {}
    for token in _in_order(words, attributes):
        if len(found) >= tokens_max:
            break
        found.setdefault(token)
    return list(found)


def _in_order(words: list[str], attributes: Attributes) -> Iterator[str]:
    for name in sorted(attributes):
        value = attributes[name]
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                yield f"{name}={one}".lower()
    yield from words
    for word in words:
        padded = f"#{word}#"
        for start in range(len(padded) - 2):
            yield "3" + padded[start : start + 3]  # the mark keeps a trigram from being taken for a word of three letters


@lru_cache(maxsize=CACHED_TOKENS_MAX)
def hashed_rows(token: str) -> tuple[int, ...]:
    """The rows of one token: the same on every machine and in every process."""
    digest = xxhash.xxh3_64_intdigest(token.encode("utf-8", "surrogatepass"))
    return digest % TEXT_ROWS, (digest >> 32) % TEXT_ROWS
