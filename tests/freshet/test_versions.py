"""Versions as an operator meets them: listed with their decisions, and rolled back by command, on record, whoever serves."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from freshet.commands.cli import app, main
from freshet.learning.training import Plan, Training
from freshet.service import Service
from freshet.versions import ROLL_BACK, shadow_of, word_of
from storage.models import UnknownVersion
from tests.freshet.followed import Followed
from tests.freshet.running import server
from tests.freshet.sites import NOW_MS, promote, site, train
from tests.freshet.stand_in import StandIn
from tests.services import redis_server
from trainers.cadence import Cadence

NEVER = Cadence(10**9, 10**9, 10**9)
REFUSED = {
    "version": "g2-9",
    "kind": "head",
    "promoted": False,
    "reason": "worse: gain -0.0123",
    "numbers": {"gain": -0.0123},
    "at_ms": NOW_MS,
}


def run(*arguments: object, answer: str = "") -> Result:
    """`freshet models ...`, whose standard error is apart."""
    return CliRunner().invoke(app, ["models", *map(str, arguments)], input=answer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two trainings of the small world."""
    folder = tmp_path_factory.mktemp("trained")
    with site(folder / "data") as service:
        train(service, folder / "one", steps=10)
        train(service, folder / "two", steps=40)
    return folder


@pytest.fixture
def twice(tmp_path: Path, trained: Path) -> Path:
    """A folder in which g1-1 and then g2-2 went live."""
    with site(tmp_path / "data") as service:
        promote(service, trained / "one", "g1-1")
        promote(service, trained / "two", "g2-2", generation=2)
        service.registry.record(REFUSED)
    return tmp_path / "data"


def answers(service: Service) -> tuple[str | None, list[str]]:
    answer = service.lookup.recommend("u1", k=10, now_ms=NOW_MS)
    return answer.model, [item.item_id for item in answer.items]


def test_after_a_roll_back_look_ups_answer_from_the_earlier_version_as_before_and_it_is_on_record(tmp_path: Path, trained: Path) -> None:
    with site(tmp_path / "data") as service:
        promote(service, trained / "one", "g1-1")
        before = answers(service)
        promote(service, trained / "two", "g2-2", generation=2)
        assert answers(service)[0] == "g2-2" and answers(service) != before
        assert service.roll_back(now_ms=NOW_MS) == "g1-1"
        while service.refresh(now_ms=NOW_MS).looked_at:
            pass
        assert answers(service) == before
        (record,) = service.registry.decisions()
        assert (record["version"], record["kind"], record["at_ms"]) == ("g1-1", ROLL_BACK, NOW_MS)
        assert record["reason"] == "rolled back from g2-2 by command" and word_of(record) == "live again"
        with pytest.raises(UnknownVersion, match="g1-1 has no predecessor on record; stored: g1-1, g2-2"):
            service.roll_back(now_ms=NOW_MS)
        assert answers(service) == before and len(service.registry.decisions()) == 1
    with site(tmp_path / "data") as service:
        assert answers(service) == before, "and after a restart"


def test_the_list_marks_what_is_live_and_what_was_and_gives_each_decision_its_reason(twice: Path) -> None:
    said = run("list", "--data", twice)
    assert said.exit_code == 0
    rows = {cell: line for line in said.stdout.splitlines() for cell in ("g1-1", "g2-2") if f" {cell} " in line and "│" in line}
    assert "before" in rows["g1-1"] and "live" in rows["g2-2"]
    assert "g2-9 (head) refused: worse: gain -0.0123" in said.stdout
    found = json.loads(run("list", "--json", "--data", twice).stdout)
    assert (found["live"]["version"], found["live"]["previous"], found["candidate"]) == ("g2-2", "g1-1", None)
    assert [(one["name"], one["generation"], one["created_ms"]) for one in found["versions"]] == [("g1-1", 1, NOW_MS), ("g2-2", 2, NOW_MS)]
    assert found["decisions"] == [REFUSED]


def test_the_command_rolls_a_folder_back_after_asking_and_only_then(twice: Path) -> None:
    for answer in ("n\n", ""):
        said = run("roll-back", "--data", twice, answer=answer)
        assert said.exit_code == 1 and "g2-2 is live. Answer from g1-1 again?" in said.stderr
    assert json.loads(run("list", "--json", "--data", twice).stdout)["live"]["version"] == "g2-2"
    said = run("roll-back", "--data", twice, answer="y\n")
    assert said.exit_code == 0 and "g1-1 is live again" in said.stdout
    with site(twice) as service:
        assert answers(service)[0] == "g1-1"
    told = run("list", "--data", twice).stdout
    assert "g1-1 (roll-back) live again: rolled back from g2-2 by command" in told
    assert CliRunner().invoke(app, ["lag", "--data", str(twice)]).stdout.count("gate: g1-1 live again: rolled back") == 1


def test_nothing_to_roll_back_to_is_one_line_and_exit_code_1(
    twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("roll-back", "--yes", "--data", twice).exit_code == 0
    for folder, words in (
        (twice, "g1-1 has no predecessor on record (stored: g1-1, g2-2)"),
        (tmp_path / "new", "nothing is live yet (stored: none)"),
    ):
        monkeypatch.setattr(sys, "argv", ["freshet", "models", "roll-back", "--yes", "--data", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 1
        assert said.err.splitlines() == [f"error: cannot roll back: {words}"] and said.out == ""
    assert "no version yet" in run("list", "--data", tmp_path / "new").stdout


def test_a_running_server_is_rolled_back_over_http_and_answers_from_the_earlier_version(twice: Path) -> None:
    with server(twice, train_events_min=10**9) as running:
        assert running.client.get("/v1/users/u1/recommendations").json()["model"] == "g2-2"
        assert running.client.get("/v1/models").json()["live"]["version"] == "g2-2"
        said = run("roll-back", "--yes", "--data", twice)
        assert said.exit_code == 0, said.output
        assert running.client.get("/v1/users/u1/recommendations").json()["model"] == "g1-1"
        assert "freshet_model_info{" not in running.client.get("/metrics").text or "g1-1" in running.client.get("/metrics").text
        again = running.client.post("/v1/models/roll-back")
        assert again.status_code == 409 and "no predecessor on record" in again.json()["error"] and again.json()["do"]
        told = run("list", "--url", running.client.base_url).stdout
        assert "g1-1 (roll-back) live again" in told
        assert run("roll-back", "--yes", "--url", running.client.base_url).exit_code == 1
    with site(twice) as service:
        assert answers(service)[0] == "g1-1"


def test_a_candidate_that_was_compared_with_what_was_rolled_back_is_not_promoted(
    twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandIn(tmp_path / "stand-in", monkeypatch).better()
    with site(twice) as service:
        training = Training(service, Plan(trunk_every=1, seconds_max=1), cadence=NEVER)
        training.start(now_ms=NOW_MS, events=0)
        service.roll_back(now_ms=NOW_MS)
        training.wait(60)
        outcome = training.poll(now_ms=NOW_MS, events=0)
        assert outcome is not None and not outcome.promoted
        assert outcome.reason == "another version went live meanwhile: compared with g2-2, now g1-1 is"
        assert answers(service)[0] == "g1-1"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    """An installation as the command line is told of it; its brokers are not there, and are not asked."""
    made = Followed(tmp_path)
    made.fill()
    given: dict[str, Any] = {"KAFKA": "127.0.0.1:9", "REDIS": redis_server().url, "REDIS_PREFIX": made.prefix, "STORE": tmp_path}
    for name, value in given.items():
        monkeypatch.setenv(f"FRESHET_{name}", str(value))
    yield made
    made.close()


def test_a_cluster_is_rolled_back_through_its_registry_and_every_follower_answers_from_the_earlier_version(cluster: Followed) -> None:
    said = run("roll-back", "--yes")
    assert said.exit_code == 1 and "nothing is live yet (stored: none)" in said.stderr
    api, refresher = cluster.process("api", refreshes=False), cluster.process("refresher", refreshes=True)
    for name, generation in (("g1-1", 1), ("g2-2", 2)):
        cluster.store(name, generation, at_ms=NOW_MS + generation)
        cluster.registry().propose(name)
        for process in (refresher, api):
            process.round()
        cluster.promote(name)
        for process in (refresher, api):
            process.round()
    assert api.version == "g2-2"
    cluster.store("g3-3", 3, at_ms=NOW_MS + 3)
    cluster.registry().propose("g3-3")
    found = json.loads(run("list", "--json").stdout)
    assert (found["live"]["version"], found["candidate"]) == ("g2-2", "g3-3")
    assert "candidate" in run("list").stdout
    said = run("roll-back", "--yes")
    assert said.exit_code == 0, said.output
    for process in (refresher, api):
        process.round()
        assert process.version == "g1-1"
    assert api.serving.lookup.recommend("u1", k=3, now_ms=NOW_MS).model == "g1-1"
    assert [(one["version"], one["kind"]) for one in cluster.registry().decisions()] == [("g1-1", ROLL_BACK)]
    said = run("roll-back", "--yes")
    assert said.exit_code == 1 and "g1-1 has no predecessor on record" in said.stderr, "one step, and no further"


def test_the_list_says_what_was_seen_of_a_version_in_shadow(twice: Path) -> None:
    seen = {"shadow_lookups": 40, "shadow_failed": 3, "shadow_dropped": 7, "shadow_overlap": 0.82, "shadow_mean_ms": 1.94}
    with site(twice) as service:
        service.registry.record(REFUSED | {"numbers": seen})
    words = "  40 look-ups in shadow, 82% of the live answers given too, 1.9 ms each, 3 failed, 7 dropped"
    assert words in " ".join(run("list", "--data", twice).stdout.split("\n"))
    assert shadow_of(REFUSED) == ""
    assert shadow_of({"numbers": dict.fromkeys(seen, 0)}) == "0 look-ups in shadow"
