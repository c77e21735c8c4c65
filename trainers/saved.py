"""A run as it stood at a check, as bytes: what a killed training goes on from, to the same weights as if it had not been killed.

    blob = Saved(...).to_bytes(); saved = Saved.from_bytes(blob)

Tensors and plain values only, read with `weights_only`; the checksum stands in front, so that half a file is never gone on from.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

MAGIC: Final = b"freshet-run\n"


class BadRun(ValueError):
    """The bytes are no whole run, or another one's; the message says which. Begin anew."""


@dataclass(frozen=True)
class Saved:
    """`key` names configuration and data; `plain` is JSON; `tensors` by part (weights, best, sketch); `optimiser` its state_dict.

    All on the CPU: what was saved on one device is read where there is none.
    """

    key: str
    plain: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    optimiser: dict[str, Any]

    def to_bytes(self) -> bytes:
        """magic, sha256 of the rest, rest (torch.save)."""
        buffer = io.BytesIO()
        torch.save({"key": self.key, "plain": json.dumps(self.plain), "tensors": self.tensors, "optimiser": self.optimiser}, buffer)
        rest = buffer.getvalue()
        return MAGIC + hashlib.sha256(rest).digest() + rest

    @classmethod
    def from_bytes(cls, blob: bytes, *, key: str) -> "Saved":
        """Raises `BadRun`: not a run, altered or cut off, or of another key."""
        start = len(MAGIC) + 32
        if blob[: len(MAGIC)] != MAGIC or hashlib.sha256(blob[start:]).digest() != blob[len(MAGIC) : start]:
            raise BadRun(f"{len(blob)} bytes that are no whole run: cut off, altered, or something else")
        found = torch.load(io.BytesIO(blob[start:]), weights_only=True)
        if found["key"] != key:
            raise BadRun(f"a run of other data, settings or code ({found['key'][:12]}), not of these ({key[:12]})")
        return cls(found["key"], json.loads(found["plain"]), found["tensors"], found["optimiser"])


def state_of(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state_dict, on the CPU."""
    whole = optimiser.state_dict()
    state = {n: {name: value.cpu() for name, value in of.items()} for n, of in whole["state"].items()}
    return {**whole, "state": state}
