"""Every variant trains on a small file, what is done is not done again, and the table says which direction was seen."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.ablation.__main__ import main
from bench.ablation.runs import Budget, measured, read
from bench.ablation.tables import html, rows_of
from bench.ablation.user_state import AGES, user_states
from bench.ablation.variants import VARIANTS, WHOLE

ROOT = Path(__file__).resolve().parents[2]


def still() -> float:
    return 0.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Walks round rings of six items; a ring is an attribute."""
    folder, random = tmp_path_factory.mktemp("ablation"), np.random.default_rng(0)
    lines = []
    for user in range(60):
        ring, start = random.integers(0, 5), random.integers(0, 6)
        lines += [f"{user} {6 * ring + (start + step) % 6}" for step in range(5)]
    (folder / "walks.txt").write_text("\n".join(lines) + "\n")
    (folder / "attributes.json").write_text(json.dumps({str(item): [f"ring{item // 6}", "all"] for item in range(30)}))
    return folder / "walks.txt", folder / "attributes.json"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_ranks(files: tuple[Path, ...], name: str) -> None:
    found = measured(read(files), name, Budget(steps=6, seconds=60.0), seed=0, clock=still)
    assert found["steps"] == 6 and 0 < found["UE_HR@10"] <= 1 and 0 < found["EE_NDCG@10"] <= 1


def test_the_whole_learns_the_walk_and_a_graph_is_of_training_events_alone(files: tuple[Path, ...]) -> None:
    given = read(files)
    assert set(given.members.names) == {"all", *(f"ring{n}" for n in range(5))}
    found = measured(given, WHOLE, Budget(steps=80, seconds=60.0), seed=0, clock=still)
    assert found["UE_NDCG@10"] > 0.8, "one of two or three items that are left of a ring"
    assert len(given.train.values) == 60 * 3, "the last two of each walk are asked for"


def test_a_run_is_kept_and_the_last_line_is_json(files: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = ["--data", *map(str, files), "--only", "mean", "--seeds", "1", "--steps", "4", "--jobs", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "bench.ablation", *order], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[-1])
    assert set(first["runs"]) == {WHOLE, "mean"} and [row["variant"] for row in first["rows"]] == [WHOLE, "mean"]
    (kept,) = tmp_path.glob("*/mean-0.json")
    kept.write_text(json.dumps(first["runs"]["mean"][0] | {"UE_NDCG@10": 0.125}))
    assert main(order) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["runs"]["mean"][0]["UE_NDCG@10"] == 0.125 and again["runs"][WHOLE] == first["runs"][WHOLE]
    page = next(tmp_path.glob("*/table.html")).read_text()
    assert "walks.txt" in page and page.count("<tr>") == 3
    with pytest.raises(SystemExit):
        main([*order[:4], "nonsense"])
    with pytest.raises(SystemExit):
        main([*order, "--device", "gpu"])
    assert "--device must be cpu, cuda or auto" in capsys.readouterr().err


def test_a_user_state_of_now_knows_what_the_others_do_not(tmp_path: Path) -> None:
    """Users walk round rings of five; at the second half's start each is moved to another ring."""
    lines, day = [], 86_400
    for user in range(40):
        for step in range(40):
            ring = (user + (step >= 20)) % 4
            lines.append(f"{user}\t{ring * 12 + (user + step) % 12}\t5\t{1_000_000_000 + step * day // 8 + user}")
    path = tmp_path / "u.data"
    path.write_text("\n".join(lines) + "\n")
    found = user_states(path, Budget(steps=60, seconds=60.0), seed=0, clock=still)
    assert list(found)[:3] == list(AGES) and len({found[age]["questions"] for age in AGES}) == 1 and found["live"]["questions"] > 100
    assert found["live, returning"] == found["live"], "everybody was there in the first half"
    assert found["live"]["MRR"] > found["daily"]["MRR"] > found["once"]["MRR"]


def figures(ue: float, ee: float) -> dict[str, float]:
    return {"UE_NDCG@10": ue, "UE_HR@10": ue, "EE_NDCG@10": ee, "EE_HR@10": ee, "steps": 1, "best_step": 1, "seconds": 1}


def test_the_table_reads_direction_beside_direction_by_seed() -> None:
    found = {
        WHOLE: [figures(0.2, 0.1), figures(0.3, 0.1)],
        "no graph": [figures(0.1, 0.1), figures(0.15, 0.1)],
        "attention": [figures(0.3, 0.1), figures(0.2, 0.1)],
        "half the neighbours": [figures(0.201, 0.1), figures(0.299, 0.1)],
        "10 K random negatives": [figures(0.1, 0.1), figures(0.15, 0.1)],
    }
    rows = {row["variant"]: row for row in rows_of(found)}
    assert rows["no graph"]["UE_change"] == pytest.approx(-0.5) and rows["no graph"]["verdict"] == "down, as in the paper"
    assert rows["attention"]["verdict"] == "up, but not with every seed"
    assert rows["half the neighbours"]["verdict"] == "flat, as in the paper"
    assert rows["10 K random negatives"]["verdict"] == "down; the paper: up"
    assert "-50.0%" in html(list(rows.values()), "walks", 10)
