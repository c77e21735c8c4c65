"""The model: item tower, user encoder, head and id vocabulary under one configuration, and as bytes.

A *trunk* (tower and user encoder) defines a space; the head is swapped inside it. Nothing here reads or writes files.

    model = Model.new(ModelConfig(), ids, seed=0); vectors = model.embed_items(features); user = model.encode_user(...)
"""

import copy
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.base import F32s, HistoryBatch, I64s, ItemFeatures, U8s, U64s
from encoders.config import ModelConfig
from encoders.heads import ResidualHead
from encoders.prepared import PreparedUser
from encoders.single_user import prepared
from encoders.table import ItemTable
from encoders.transformer import CausalTransformer
from encoders.unified import ItemTensors, UnifiedEncoder

MAGIC: Final = b"freshet\n"
FORMAT: Final = 2
EMBED_ROWS_MAX: Final = 4096
_WAY_OUT: Final = "train it anew, or take a version of this format"


class CheckpointError(ValueError):
    """The bytes are not a whole model of this format; the message says what is wrong. Fetch the version again or take another."""


class Model(nn.Module):
    """`ids` (ascending) own the rows 1.. of the id table; any other id is embedded from its content alone."""

    def __init__(self, config: ModelConfig, ids: U64s) -> None:
        super().__init__()
        assert (np.diff(ids.astype(object)) > 0).all(), "ids must ascend and differ"
        self.config, self.ids = config, ids
        self.tower = (UnifiedEncoder if config.surroundings else ItemTable)(config, rows=len(ids) + 1)
        self.user = CausalTransformer(config)
        self.head = ResidualHead(config.dim, config.head_hidden, temperature=config.temperature)
        self._prepared: PreparedUser | None = None
        self._scale: float | None = None

    @classmethod
    def new(cls, config: ModelConfig, ids: U64s, *, seed: int) -> "Model":
        """Fresh weights, the same for the same seed; the caller's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, np.unique(ids)).eval()

    def train(self, mode: bool = True) -> "Model":
        """Also forgets the weights laid out for `encode_user`."""
        self._prepared = self._scale = None
        super().train(mode)
        return self

    @property
    def device(self) -> torch.device:
        """Where its tensors are: elsewhere than on the CPU only while it is trained, when it digests, saves and encodes no single user."""
        return self.head.log_temperature.device

    def id_rows(self, ids: U64s) -> I64s:
        """Rows of the id table; 0 for an id the model does not know."""
        if not len(self.ids):
            return np.zeros(len(ids), dtype=np.int64)
        place = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[place] == ids, place + 1, 0).astype(np.int64)

    def item_tensors(self, features: ItemFeatures) -> ItemTensors:
        """What the tower's forward takes, on the model's device."""
        return ItemTensors.of(features, self.id_rows(features.ids), self.config.widths, self.device)

    def embed_items(self, features: ItemFeatures, rows: I64s | None = None) -> F32s:
        """Unit vectors (I, D) of all items, or of these distinct rows; other nodes are then only there as neighbours.

        In batches of at most 4,096 rows, in eval mode, without gradients.
        """
        wanted = np.arange(features.items) if rows is None else rows
        out = np.empty((len(wanted), self.config.dim), dtype=np.float32)
        with self._answering():
            for start in range(0, len(wanted), EMBED_ROWS_MAX):
                part = wanted[start : start + EMBED_ROWS_MAX]
                tensors = self.item_tensors(features.around(part))
                out[start : start + len(part)] = self.tower(tensors, len(part)).cpu().numpy()
        return out

    def encode_user(self, item_vectors: F32s, actions: U8s, ts_ms: I64s, now_ms: int) -> F32s:
        """One user vector (D,), unit length, from item vectors (L, D), oldest first; L = 0 gives the vector of a user nothing is known of.

        `now_ms` is when the question is asked. About 0.3 ms for 64 actions on one thread (eager torch: 0.9).
        """
        return self.prepared().encode(item_vectors, actions, ts_ms, now_ms)

    def prepared(self) -> PreparedUser:
        """The user encoder and the head as they are now, without torch: what `encode_user` asks."""
        if self._prepared is None:
            self._prepared = prepared(self.user, self.head)
        return self._prepared

    def encode_users(self, batch: HistoryBatch) -> F32s:
        """(B, D) unit rows: what `encode_user` gives for each history."""
        with self._answering():
            return self.head(self.trunk_users(batch)).cpu().numpy()  # type: ignore[no-any-return]  # Module.__call__ is untyped

    def trunk_users(self, batch: HistoryBatch) -> Tensor:
        """(B, D) unit rows before the head: what head fine-tuning starts from. Runs in the current mode."""
        parts = (batch.item_vectors, batch.actions.astype(np.int64), batch.gaps_ms, batch.mask)
        users = self.user(*(torch.from_numpy(part).to(self.device) for part in parts))
        return functional.normalize(users[:, -1], dim=-1)

    @property
    def temperature(self) -> float:
        """The scale that turns cosines into logits."""
        if self.training:
            return float(self.head.temperature().detach())
        if self._scale is None:
            self._scale = float(self.head.temperature().detach())
        return self._scale

    def with_head(self, state: Mapping[str, Tensor]) -> "Model":
        """A model with this head on the same trunk; the trunk's tensors are shared, the head's are copied."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.head = copy.deepcopy(self.head)
        other.head.load_state_dict(dict(state))
        other._prepared = other._scale = None
        return other

    def trunk_digest(self) -> str:
        """sha256 over configuration, ids and every trunk tensor: equal digests, equal item vectors."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode() + self.ids.tobytes())
        for part in (self.tower, self.user):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def same_trunk(self, other: "Model") -> bool:
        """Whether both make the same item vectors: equal configuration, ids and trunk tensors, which digests tell too, but slower."""
        if self.config != other.config or not np.array_equal(self.ids, other.ids):
            return False
        pairs = ((ours.state_dict(), theirs.state_dict()) for ours, theirs in ((self.tower, other.tower), (self.user, other.user)))
        return all(torch.equal(tensor, theirs[name]) for ours, theirs in pairs for name, tensor in ours.items())

    def to_bytes(self) -> bytes:
        """magic, sha256 of the rest, length of the header, header (JSON), tensors (torch.save)."""
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        buffer = io.BytesIO()
        torch.save({"ids": torch.from_numpy(self.ids.view(np.int64)), "weights": tensors}, buffer)
        header = json.dumps({"format": FORMAT, "config": asdict(self.config)}).encode()
        rest = len(header).to_bytes(4, "little") + header + buffer.getvalue()
        return MAGIC + hashlib.sha256(rest).digest() + rest

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Model":
        """The model in eval mode.

        Raises `CheckpointError`: not a model, another format, altered or cut bytes, another shape, numbers that are not finite.
        """
        header, payload = _opened(blob)
        try:
            config = ModelConfig.from_mapping(header["config"])
            stored = torch.load(io.BytesIO(payload), weights_only=True)
            model = cls(config, stored["ids"].numpy().view(np.uint64))
            model.load_state_dict(stored["weights"])
        except Exception as error:  # whatever torch makes of bytes that it did not write; pickle's errors are no ValueError
            raise CheckpointError(f"the model's contents do not fit its configuration: {error}") from error
        broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if broken:
            raise CheckpointError(f"{broken[0]} holds numbers that are not finite: train the model anew or take another version")
        return model.eval()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        was_training = self.training
        if was_training:
            self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if was_training:
                self.train()


def _opened(blob: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    start = len(MAGIC) + 32
    if blob[: len(MAGIC)] != MAGIC or len(blob) < start + 4:
        raise CheckpointError(f"not a model: {len(blob)} bytes that do not begin with {MAGIC!r}")
    if hashlib.sha256(blob[start:]).digest() != blob[len(MAGIC) : start]:
        raise CheckpointError(f"the model's {len(blob)} bytes do not have the checksum written with them: altered or cut off")
    length = int.from_bytes(blob[start : start + 4], "little")
    try:
        header = json.loads(blob[start + 4 : start + 4 + length])
        written = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the model's header names no format ({error}), this version reads format {FORMAT}: {_WAY_OUT}") from error
    if written != FORMAT:
        raise CheckpointError(f"the model has format {written}, this version reads format {FORMAT}: {_WAY_OUT}")
    return header, blob[start + 4 + length :]
