"""`freshet serve --model`: a file's model goes live once, and learns on; what is no whole model is refused, and nothing changes."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from encoders.config import ModelConfig
from encoders.model import FORMAT, CheckpointError, Model
from freshet.commands.cli import app
from freshet.learning.adopting import adopt
from freshet.service import Service
from serving.sources import SOURCES
from tests.freshet.sites import NOW_MS, promote, site, train

PLAIN = ModelConfig(dim=16, item_heads=2, history_len=8, head_hidden=4, surroundings=False, clock=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    with site(tmp_path / "data") as service:
        yield service


def written(path: Path, service: Service, seed: int = 0, config: ModelConfig = PLAIN) -> Path:
    path.write_bytes(Model.new(config, service.view.catalogue.ids, seed=seed).to_bytes())
    return path


def test_a_file_goes_live_over_every_item_once_and_after_a_restart_too(tmp_path: Path, served: Service) -> None:
    path = written(tmp_path / "model.bin", served)
    assert served.registry.live() is None
    name = adopt(served, path, now_ms=NOW_MS)
    answer = served.lookup.recommend("u1", now_ms=NOW_MS)
    assert answer.model == name and name.startswith("file-") and len(answer.items) == 10
    assert served.current is not None and len(served.current.live.vectors) == len(served.view.catalogue)
    assert served.current.live.blend.weights.tolist() == [1.0] + [0.0] * (len(SOURCES) - 1) and served.current.live.blend.sources == SOURCES
    adopt(served, path, now_ms=NOW_MS + 1)
    decisions = served.registry.decisions()
    assert [decision["version"] for decision in decisions] == [name] and decisions[0]["kind"] == "file"
    record = served.registry.live()
    assert record is not None and record.sequence == 1


def test_what_was_learned_since_stays_live_when_the_same_file_is_given_again(tmp_path: Path, served: Service) -> None:
    path = written(tmp_path / "model.bin", served)
    adopt(served, path, now_ms=NOW_MS)
    promote(served, train_folder(served, tmp_path / "trained"), "g2-1", generation=2)
    adopt(served, path, now_ms=NOW_MS)
    assert served.current is not None and served.current.live.version == "g2-1"
    assert served.current.model.config == PLAIN, "the next trunk starts warm from the file's, in its configuration"
    other = adopt(served, written(tmp_path / "other.bin", served, seed=1), now_ms=NOW_MS)
    assert served.current.live.version == other and served.current.live.generation == 3


def train_folder(service: Service, out: Path) -> Path:
    train(service, out, steps=2)
    return out


def test_a_start_killed_before_the_promotion_is_finished_by_the_next(
    tmp_path: Path, served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "model.bin", served)

    def killed(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(served, "build", killed)
    with pytest.raises(KeyboardInterrupt):
        adopt(served, path, now_ms=NOW_MS)
    assert served.registry.live() is None and len(served.registry.versions()) == 1
    monkeypatch.undo()
    name = adopt(served, path, now_ms=NOW_MS + 5)
    record = served.registry.live()
    assert record is not None and record.version == name and len(served.registry.versions()) == 1


def damaged(tmp_path: Path, service: Service) -> dict[str, tuple[bytes, str]]:
    """Bytes that are no model, and what is said of them."""
    whole = Model.new(PLAIN, service.view.catalogue.ids, seed=0)
    blob = whole.to_bytes()
    infinite = Model.new(PLAIN, service.view.catalogue.ids, seed=0)
    with torch.no_grad():
        infinite.tower.ids.weight[2, 0] = np.nan
    wide = Model.new(PLAIN, service.view.catalogue.ids, seed=0)
    wide.config = replace(PLAIN, dim=32)
    return {
        "a flipped byte": (blob[:-100] + bytes([blob[-100] ^ 1]) + blob[-99:], "altered or cut off"),
        "half a file": (blob[: len(blob) // 2], "altered or cut off"),
        "something else": (b"PK\x03\x04" + bytes(200), "not a model"),
        "nothing": (b"", "not a model"),
        "another format": (_of_format(blob, FORMAT + 1), f"has format {FORMAT + 1}, this version reads format {FORMAT}"),
        "another dimension": (wide.to_bytes(), "do not fit its configuration"),
        "not finite": (infinite.to_bytes(), "not finite"),
    }


def _of_format(blob: bytes, number: int) -> bytes:
    """The same model under another format's number, its checksum in order."""
    rest = blob[8 + 32 :].replace(f'"format": {FORMAT}'.encode(), f'"format": {number}'.encode(), 1)
    return blob[:8] + hashlib.sha256(rest).digest() + rest


def test_what_is_no_whole_model_is_refused_by_name_and_nothing_changes(tmp_path: Path, served: Service) -> None:
    good = adopt(served, written(tmp_path / "good.bin", served, seed=7), now_ms=NOW_MS)
    for what, (blob, said) in damaged(tmp_path, served).items():
        path = tmp_path / "bad.bin"
        path.write_bytes(blob)
        with pytest.raises(CheckpointError, match=rf"bad\.bin: .*{said}"):
            adopt(served, path, now_ms=NOW_MS)
        assert [version.name for version in served.registry.versions()] == [good], what
        assert served.lookup.recommend("u1", now_ms=NOW_MS).model == good, what
    with pytest.raises(FileNotFoundError):
        adopt(served, tmp_path / "none.bin", now_ms=NOW_MS)


def test_the_command_refuses_before_it_takes_a_request(tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(b"no model at all")
    found = CliRunner().invoke(app, ["serve", "--data", str(tmp_path / "data"), "--model", str(tmp_path / "bad.bin"), "--port", "1"])
    assert isinstance(found.exception, CheckpointError) and "bad.bin: not a model: 15 bytes" in str(found.exception)
