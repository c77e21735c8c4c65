"""What a training computes on: nothing is left behind on another device, weights come back, and the one who asks is told what there is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from encoders.model import Model
from tests.trainers.pretended import OnDevice, pretended
from trainers.config import BFLOAT16, CPU, CUDA, TrainConfig
from trainers.device import device_of, lent, seeded
from trainers.graph import surrounded
from trainers.heads_training import HeadConfig, Samples, TunedHead, head_samples, tune_head
from trainers.loop import Going, Lesson, Trained, Trainer, started
from trainers.objective import Objective
from trainers.parallel import Part, joined
from trainers.samples import windows
from trainers.saved import Saved

REAL = torch.cuda.is_available()
THERE = pytest.mark.skipif(not REAL, reason="torch sees no CUDA device here")
PLACES = [pytest.param(pretended, id="pretended"), pytest.param(nullcontext, id="real", marks=THERE)]
Place = Callable[[], AbstractContextManager[None]]
EVERY_TASK: dict[str, Any] = {
    "whole_max": 10, "pair_weight": 0.5, "feature_weight": 0.5, "future_weight": 0.5, "prefixes": (4, 8), "exclude_seen": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("of_training", "of_model"),
    [
        ({}, {}),
        (EVERY_TASK, {"image_dim": 5}),
        (EVERY_TASK, {"aggregator": "attention"}),
        (EVERY_TASK, {"aggregator": "mean"}),
        ({"whole_max": 10}, {"surroundings": False, "clock": False}),
    ],
    ids=["whole catalogue", "every task, images", "attention", "mean", "id and text alone"],
)
def test_a_training_leaves_nothing_behind_on_another_device(
    rings: Callable[..., Any], quick: TrainConfig, of_training: dict[str, Any], of_model: dict[str, Any]
) -> None:
    """On a device that is not there but refuses to mix: the same weights, to the bit, as on the CPU."""
    world = rings(users=20, length=12)
    shown = np.random.default_rng(0).random((len(world.features), of_model.get("image_dim", 0)), dtype=np.float32)
    features = replace(world.features, image=shown) if shown.size else world.features
    config = replace(quick, steps_max=6, check_every=3, warm_up_steps=2, **of_training, model=replace(quick.model, **of_model))
    with pretended():
        found = Trainer(replace(config, device=CUDA)).train(world.columns, features)
    wanted = Trainer(config).train(world.columns, features)
    assert not any(isinstance(tensor, OnDevice) for tensor in found.model.state_dict().values())
    assert found.model.to_bytes() == wanted.model.to_bytes() and found.metrics == wanted.metrics


def test_what_is_left_behind_is_found() -> None:
    with pretended():
        there, index = torch.arange(4).to(CUDA), torch.tensor([1, 2])
        assert there.device.type == CUDA and (there + 1)[index.to(CUDA)].cpu().tolist() == [2, 3]
        mixtures: list[Callable[[], Any]] = [lambda: there + torch.ones(4), lambda: there[index], lambda: there * torch.rand(there.shape)]
        for mixing in mixtures:
            with pytest.raises(AssertionError, match="mixes"):
                mixing()
        with pytest.raises((TypeError, RuntimeError), match="numpy"):
            there.numpy()


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_and_what_it_left_is_on_the_cpu(rings: Callable[..., Any], quick: TrainConfig, place: Place) -> None:
    world, blobs = rings(users=20, length=12), list[bytes]()
    config = replace(quick, steps_max=8, check_every=4, warm_up_steps=2, batch_windows=6, device=CUDA)

    def run(saved: Saved | None = None) -> Trained:
        going = Going(saving=lambda at: blobs.append(at.to_bytes()))
        lesson = Lesson(world.features, world.events, None)
        return Trainer(config, clock=lambda: 0.0, going=going).run(started(config, world.features, None), lesson, key="k", saved=saved)

    with place():
        whole = run()
        kept = Saved.from_bytes(blobs[0], key="k")
        resumed = run(kept)
    told = [*(tensor for part in kept.tensors.values() for tensor in part.values())]
    told += [value for of in kept.optimiser["state"].values() for value in of.values()]
    assert {(type(tensor), tensor.device.type) for tensor in told} == {(torch.Tensor, CPU)}
    assert {"torch", "cuda"} == set(kept.tensors["random"])
    for name, tensor in resumed.model.state_dict().items():
        torch.testing.assert_close(tensor, whole.model.state_dict()[name], rtol=0 if place is pretended else 1e-4, atol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_a_head_is_tuned_as_on_the_cpu_and_comes_back(rings: Callable[..., Any], quick: TrainConfig, place: Place) -> None:
    world = rings(users=20, length=12)
    live = Model.new(quick.model, world.features.ids, seed=0)
    before = live.to_bytes()

    def tuned(device: str) -> TunedHead:
        with lent(live, torch.device(device)):
            vectors = live.embed_items(world.features)
            asked = head_samples(live, vectors, world.events, asked=np.arange(len(world.columns)) >= 100)
        first = tune_head(live, Samples(asked, asked), vectors, config=HeadConfig(steps_max=4, device=device))
        return tune_head(
            first.model, Samples(asked, asked), vectors, config=HeadConfig(steps_max=2, device=device), optimiser=first.optimiser
        )

    wanted = tuned(CPU)
    with place():
        found = tuned(CUDA)
    assert live.to_bytes() == before and found.model.device.type == CPU
    if place is pretended:
        assert found.model.to_bytes() == wanted.model.to_bytes() and found.optimiser == wanted.optimiser
    assert found.loss_after == pytest.approx(wanted.loss_after, abs=1e-3) and found.loss_after < found.loss_before


@THERE
@pytest.mark.parametrize("change", [{}, {"precision": BFLOAT16}, EVERY_TASK, {**EVERY_TASK, "precision": BFLOAT16}])
def test_on_a_real_device_a_walk_is_learned_about_as_well(rings: Callable[..., Any], quick: TrainConfig, change: dict[str, Any]) -> None:
    world, losses = rings(), list[float]()
    config = replace(quick, steps_max=150, **change)
    wanted = Trainer(replace(config, precision="float32")).train(world.columns, world.features)
    going = Going(stepped=lambda spent, loss: losses.append(loss))
    found = Trainer(replace(config, device=CUDA), going=going).train(world.columns, world.features)
    assert len(losses) == 150 and np.isfinite(losses).all()
    assert found.metrics["MRR"] == pytest.approx(wanted.metrics["MRR"], abs=0.1)
    assert {tensor.device.type for tensor in found.model.state_dict().values()} == {CPU}
    assert {tensor.dtype for tensor in found.model.state_dict().values()} == {torch.float32}
    Model.from_bytes(found.model.to_bytes())


@pytest.mark.parametrize("change", [{}, EVERY_TASK], ids=["whole catalogue", "every task"])
def test_in_bfloat16_gradients_are_near_those_in_float32(rings: Callable[..., Any], quick: TrainConfig, change: dict[str, Any]) -> None:
    world = rings(users=20, length=12)

    def gradients(precision: str) -> tuple[float, torch.Tensor]:
        config = replace(quick, precision=precision, **change)
        with seeded(0, torch.device(CPU)):
            model = Model.new(config.model, world.features.ids, seed=0).train()
            objective = Objective(config, model, features=surrounded(world.features, world.columns), events=world.events)
            loss = objective.backward(windows(world.columns, 8))
        found = [parameter.grad for parameter in (*model.parameters(), *objective.parameters()) if parameter.grad is not None]
        assert {gradient.dtype for gradient in found} == {torch.float32}
        return loss, torch.cat([gradient.flatten() for gradient in found])

    (loss, wanted), (near, found) = gradients("float32"), gradients(BFLOAT16)
    assert near == pytest.approx(loss, rel=0.01) and near != loss
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=0) > 0.99
    assert (wanted - found).norm() < 0.1 * wanted.norm()


def test_a_training_in_bfloat16_learns_and_keeps_float32(rings: Callable[..., Any], quick: TrainConfig) -> None:
    world = rings(users=20, length=12)
    config = replace(quick, steps_max=40, check_every=20)
    wanted, found = (Trainer(replace(config, precision=p)).train(world.columns, world.features) for p in ("float32", BFLOAT16))
    assert found.best_step and found.metrics["MRR"] == pytest.approx(wanted.metrics["MRR"], abs=0.1)
    assert {tensor.dtype for tensor in found.model.state_dict().values()} == {torch.float32}


def test_a_lent_model_comes_back_after_an_error_too(quick: TrainConfig) -> None:
    model = Model.new(quick.model, np.arange(1, 4, dtype=np.uint64), seed=0)
    before = model.to_bytes()

    def failing() -> None:
        with lent(model, torch.device(CUDA)):
            assert model.device.type == CUDA
            raise KeyError

    with pretended(), pytest.raises(KeyError):
        failing()
    assert model.to_bytes() == before


def test_a_device_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--device must be cpu, cuda or auto .*, not 'tpu'"):
        device_of("tpu", asked_by="--device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("cpu", asked_by="--device") == device_of("auto", asked_by="--device") == CPU
    with pytest.raises(
        ValueError, match=r"FRESHET_TRAIN_DEVICE is cuda, but torch .* sees no CUDA device here: install .* or set cpu, or auto"
    ):
        device_of("cuda", asked_by="FRESHET_TRAIN_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("cuda", asked_by="--device") == device_of("auto", asked_by="--device") == CUDA


@pytest.mark.parametrize("make", [TrainConfig, HeadConfig])
def test_a_configuration_names_a_device_and_a_precision(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="device must be cpu or cuda, not 'auto'"):
        make(device="auto")
    with pytest.raises(ValueError, match="precision must be float32 or bfloat16, not 'half'"):
        TrainConfig(precision="half")


def test_processes_on_cuda_take_a_device_each_and_meet_by_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[Any]()
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", done.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with joined(CUDA) as part:
        assert part == Part(3, 4) and done == [1, "cpu:gloo,cuda:nccl"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"process 2 of this machine finds 1 CUDA devices: start so many at most"), joined(CUDA):
        pass
    with joined():
        assert done[2:] == ["gloo"]
