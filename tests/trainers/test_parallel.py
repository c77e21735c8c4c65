"""Two processes learn what one learns: the same gradient of a batch, and the same weights after some steps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.services import free_port
from tests.trainers.parallel_child import found
from trainers.parallel import ALONE, Part, joined

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def in_processes(count: int, out: Path, changes: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """What each of them found, as torchrun would start them."""
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "tests.trainers.parallel_child", str(out), json.dumps(changes)]
    children = [subprocess.Popen(command, cwd=ROOT, env=os.environ | meeting | {"RANK": str(rank)}) for rank in range(count)]
    try:
        assert [child.wait(TIMEOUT_S) for child in children] == [0] * count
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [torch.load(f"{out}-{rank}", weights_only=True) for rank in range(count)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"whole_max": 10, "pair_weight": 0.5},
        {"whole_max": 10, "pair_weight": 0.5, "feature_weight": 0.5, "future_weight": 0.5, "prefixes": (4, 8)},
        {"batch_windows": 1},
    ],
    ids=["whole catalogue", "sampled, with pairs", "every task, prefixes too", "one window: one process has nothing to ask"],
)
def test_data_parallel_training_equals_that_of_one_process(changes: dict[str, Any], tmp_path: Path) -> None:
    alone = found(changes, ALONE)
    first, second = in_processes(2, tmp_path / "found", changes)
    assert set(first) == set(second) == set(alone), "a parameter without a gradient has none in parts either"
    assert any(name.startswith("g") for name in alone)
    for name, wanted in alone.items():
        assert torch.equal(first[name], second[name]), f"{name}: the processes went apart"
        atol = 1e-6 if name.startswith("g") else 1e-3  # AdamW makes a step of the rounding in a gradient that is all but zero
        torch.testing.assert_close(first[name], wanted, rtol=1e-4, atol=atol)


def test_a_part_takes_its_share_and_alone_sends_nothing() -> None:
    rows = torch.arange(7).numpy()
    assert [Part(rank, 3).share(rows).tolist() for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert ALONE.share(rows).tolist() == rows.tolist() and ALONE.summed(2.5) == 2.5 == ALONE.agreed(2.5)
    with pytest.raises(ValueError, match="rank"):
        Part(2, 2)


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as part:
        assert part == ALONE
