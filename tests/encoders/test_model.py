"""The model as a whole: bytes and what damages them, configuration, heads, ids."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders.base import HistoryBatch, ItemFeatures
from encoders.config import ModelConfig
from encoders.model import FORMAT, MAGIC, CheckpointError, Model


def test_bytes_round_trip_gives_the_same_vectors(
    model: Model, catalogue: Callable[..., ItemFeatures], histories: Callable[..., HistoryBatch]
) -> None:
    again = Model.from_bytes(model.to_bytes())
    assert again.config == model.config and (again.ids == model.ids).all() and not again.training
    assert (again.embed_items(catalogue()) == model.embed_items(catalogue())).all()
    assert (again.encode_users(histories([4])) == model.encode_users(histories([4]))).all()
    assert again.trunk_digest() == model.trunk_digest() and again.temperature == model.temperature


@pytest.fixture(scope="module")
def blob() -> bytes:
    return Model.new(
        ModelConfig(dim=8, history_len=4, neighbours_max=2, head_hidden=4), np.arange(1, 4, dtype=np.uint64), seed=0
    ).to_bytes()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_is_always_noticed(blob: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(blob) - 1))
    altered = bytearray(blob)
    altered[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CheckpointError):
        Model.from_bytes(bytes(altered))


@pytest.mark.parametrize("cut", [0, 5, 20, 43, 44, 1000, -1])
def test_bytes_cut_off_are_noticed(blob: bytes, cut: int) -> None:
    with pytest.raises(CheckpointError):
        Model.from_bytes(blob[:cut])


def sealed(rest: bytes) -> bytes:
    """With a checksum that is in order, as another version would have written it."""
    return MAGIC + hashlib.sha256(rest).digest() + rest


@pytest.mark.parametrize("header", [{"config": {}}, {"format": FORMAT - 1}, {"format": "1"}, {"format": None}, [FORMAT], None])
def test_a_checkpoint_of_another_format_is_refused_with_the_format_this_version_reads(header: object) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(CheckpointError, match=f"this version reads format {FORMAT}: train it anew"):
        Model.from_bytes(sealed(len(text).to_bytes(4, "little") + text + b"tensors of then"))
    with pytest.raises(CheckpointError, match="names no format"):
        Model.from_bytes(sealed((10**6).to_bytes(4, "little") + b"cut off before it was sealed"))


@pytest.mark.parametrize("payload", [b"", b"no tensors", b"\x80\x02N.", b"PK\x03\x04"])
def test_tensors_that_cannot_be_read_are_refused_whatever_torch_raises(payload: bytes) -> None:
    text = json.dumps({"format": FORMAT, "config": asdict(ModelConfig())}).encode()
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        Model.from_bytes(sealed(len(text).to_bytes(4, "little") + text + payload))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["tower.ids.weight", "user.norm.weight", "head.log_temperature"])
def test_weights_that_are_not_finite_are_never_loaded(blob: bytes, name: str, value: float) -> None:
    model = Model.from_bytes(blob)
    name = name if name in model.state_dict() else next(one for one in model.state_dict() if one.startswith(name.split(".")[0]))
    with torch.no_grad():
        model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=rf"^{name} holds numbers that are not finite: train the model anew"):
        Model.from_bytes(model.to_bytes())


def test_the_same_trunk_is_told_as_digests_tell_it(blob: bytes) -> None:
    model, again = Model.from_bytes(blob), Model.from_bytes(blob)
    headed = model.with_head({name: tensor + 1 for name, tensor in model.head.state_dict().items()})
    others = [Model.new(model.config, model.ids, seed=1), Model.new(model.config, model.ids[:2], seed=0)]
    others.append(Model.new(replace(model.config, dropout=0.0), model.ids, seed=0))
    assert model.same_trunk(again) and model.same_trunk(headed) and headed.same_trunk(model)
    for other in others:
        assert not model.same_trunk(other) and model.trunk_digest() != other.trunk_digest()


def test_an_unknown_key_in_the_configuration_is_an_error() -> None:
    with pytest.raises(ValueError, match="colour"):
        ModelConfig.from_mapping({**asdict(ModelConfig()), "colour": 1})
    assert ModelConfig.from_mapping(asdict(ModelConfig(dim=32))) == ModelConfig(dim=32)


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"dim": 10}, {"dropout": 1.0}, {"temperature": 0.0}, {"temperature": 101.0}, {"image_dim": -1}, {"history_len": 0}],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(**wrong)  # type: ignore[arg-type]  # that is the test


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_random_state_alone() -> None:
    ids = np.array([3, 1, 2, 3], dtype=np.uint64)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [Model.new(ModelConfig(dim=16), ids, seed=seed) for seed in (0, 0, 1)]
    assert torch.rand(1) == expected
    assert models[0].ids.tolist() == [1, 2, 3]
    assert models[0].trunk_digest() == models[1].trunk_digest() != models[2].trunk_digest()


def test_another_head_leaves_the_trunk_and_the_first_model_alone(model: Model, histories: Callable[..., HistoryBatch]) -> None:
    before = model.encode_users(histories([4]))
    other = model.with_head(Model.new(model.config, model.ids, seed=0).head.state_dict())
    assert other.trunk_digest() == model.trunk_digest()
    assert (other.encode_users(histories([4])) != before).any()
    assert (model.encode_users(histories([4])) == before).all()


def test_answering_in_the_middle_of_training_changes_no_mode(model: Model, catalogue: Callable[..., ItemFeatures]) -> None:
    calm = model.embed_items(catalogue())
    assert (model.train().embed_items(catalogue()) == calm).all()
    assert model.training and model.tower.training


def test_a_model_without_ids_embeds_from_content(catalogue: Callable[..., ItemFeatures], config: ModelConfig) -> None:
    model = Model.new(config, np.empty(0, dtype=np.uint64), seed=0)
    assert np.isfinite(model.embed_items(catalogue())).all()


def test_ids_above_two_to_the_63_survive(config: ModelConfig) -> None:
    ids = np.array([1, 2**63, 2**64 - 1], dtype=np.uint64)
    again = Model.from_bytes(Model.new(config, ids, seed=0).to_bytes())
    assert (again.ids == ids).all() and again.id_rows(ids).tolist() == [1, 2, 3]
