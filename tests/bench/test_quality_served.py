"""What the bench measures is what `freshet serve --model` answers: the same ten items for each of a hundred users, in the same order."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from bench.quality import loo
from bench.quality.__main__ import main
from bench.quality.layouts import read_loo
from bench.quality.neural import ACTION, features_of, source_of
from encoders.base import Ragged
from encoders.model import Model
from tests.freshet.running import server

USERS, ITEMS, K = 100, 60, 10
START_MS = 1_700_000_000_000


def write_walks(folder: Path) -> list[Path]:
    """Users who mostly take the next item of a ring; some items have titles, others attributes, others neither."""
    random = np.random.default_rng(0)
    steps = 1 + (random.random((USERS, 14)) < 0.2) * random.integers(0, 9, size=(USERS, 14))
    walks = (random.integers(0, ITEMS, size=(USERS, 1)) + steps.cumsum(axis=1)) % ITEMS
    paths = [folder / name for name in ("data.txt", "titles.json", "attributes.json")]
    paths[0].write_text("".join(f"u{user} " + " ".join(f"i{item}" for item in walk) + "\n" for user, walk in enumerate(walks)))
    paths[1].write_text(json.dumps({f"i{item}": f"Ring {item // 10} place {item % 10}" for item in range(0, ITEMS, 3)}))
    paths[2].write_text(json.dumps({f"i{item}": [f"third {item % 3}", "ring"] for item in range(1, ITEMS, 3)}))
    return paths


def entities(paths: list[Path]) -> list[dict[str, object]]:
    """The catalogue as a server is told of it."""
    titles, attributes = (json.loads(path.read_text()) for path in paths[1:])
    found: list[dict[str, object]] = []
    for item in read_loo(paths).catalogue.rows:
        facts = {"attributes": {"attribute": attributes[item]}} if item in attributes else {}
        found.append({"kind": "item", "id": item, "title": titles.get(item, ""), **facts})
    return found


def all_answer(client: httpx.Client, users: int) -> list[list[str]]:
    """Each user's ten items."""
    answers = [client.get(f"/v1/users/u{user}/recommendations", params={"k": K}).json() for user in range(users)]
    assert {answer["model"] for answer in answers} == {answers[0]["model"]} and answers[0]["model"].startswith("file-")
    return [[item["item_id"] for item in answer["items"]] for answer in answers]


def lists(found: Ragged) -> list[list[int]]:
    return [found.values[begin:end].tolist() for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def test_a_hundred_users_get_from_the_server_what_the_bench_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_walks(tmp_path)
    arguments = ["loo", "--data", *map(str, paths), "--model", "neural", "--minutes", "0.05", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["systems"]) == {"neural", "blend"} and report["systems"]["neural"] == report["systems"]["blend"]
    checkpoint = Path(report["neural"]["checkpoint"])
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model.bin"], "what a killed run would go on from is gone"

    data = read_loo(paths)
    test, names = loo.split(data).test, list(data.catalogue.rows)
    scores = source_of(Model.from_bytes(checkpoint.read_bytes()), features_of(data.catalogue, data.described)).scores(test.inputs)
    for row, seen in enumerate(lists(test.left_out)):
        scores[row, seen] = -np.inf
    wanted = [[names[item] for item in np.argsort(-row, kind="stable")[:K]] for row in scores]

    events = [
        {"user_id": f"u{user}", "action": ACTION, "item_id": names[item], "ts_ms": START_MS + 1000 * place}
        for user, items in enumerate(lists(test.inputs))
        for place, item in enumerate(items)
    ]
    with server(tmp_path / "data", "--model", str(checkpoint), train_events_min=10**9) as site:
        assert site.client.post("/v1/entities", json=entities(paths)).status_code == 202
        number = site.client.post("/v1/events", json=events).json()["token"]["number"]
        site.client.get("/v1/users/u0/recommendations", params={"min_number": number, "wait_ms": 5000})
        while site.client.get("/v1/status").json()["dirty_items"]:
            pass
        answered = all_answer(site.client, USERS)
    assert answered == wanted
    hits = [names[target] in items for target, items in zip(test.targets.tolist(), answered, strict=True)]
    assert np.mean(hits) == pytest.approx(report["systems"]["neural"]["HR@10"]), "the report's own figure, from the answers of the API"


def test_a_run_killed_at_any_moment_goes_on_and_half_a_file_is_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_walks(tmp_path)
    arguments = ["loo", "--data", str(paths[0]), "--out", str(tmp_path / "out"), "--minutes"]
    folder = tmp_path / "out" / f"loo-{tmp_path.name}-data-0"
    with subprocess.Popen([sys.executable, "-m", "bench.quality", *arguments, "5"], cwd=Path(__file__).parents[2]) as killed:
        while not (folder / "with-dropout-0.2.run").exists():  # its first check
            assert killed.poll() is None
        killed.send_signal(signal.SIGKILL)
    run = folder / "with-dropout-0.2.run"
    whole = run.read_bytes()
    assert main([*arguments, "0.05"]) == 0
    assert "with-dropout-0.2.run: goes on after step" in capsys.readouterr().err
    run.write_bytes(whole[:-1])
    assert main([*arguments, "0.05"]) == 0
    printed = capsys.readouterr()
    assert "with-dropout-0.2.run: " in printed.err and "no whole run" in printed.err and "begins anew" in printed.err
    found = json.loads(printed.out.splitlines()[-1])
    assert {"pop", "rules", "ridge", "neural", "blend"} < set(found["systems"]) and found["neural"]["steps"] >= 1
    assert list(found["blend"]["weights"])[-1] == "neural" and [path.name for path in folder.iterdir()] == ["model.bin"]


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, told in (("cuda", "--device is cuda, but torch"), ("gpu", "--device must be cpu, cuda or auto")):
        with pytest.raises(SystemExit):
            main(["loo", "--data", str(tmp_path / "none"), "--device", device])
        assert told in capsys.readouterr().err
