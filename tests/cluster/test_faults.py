"""One trial of every fault that must be survived: nothing lost, nothing doubled, everything as an oracle and a replay have it.

The full count is `python -m bench.faults`; `test_worker.py` kills a worker at every named point.
"""

import json
from collections.abc import Iterator

import pytest

from bench.faults.__main__ import main
from bench.faults.catalogue import FAULTS, Figures, measure
from bench.faults.sites import Ground
from bench.services import KafkaServer, RedisServer
from tests.services import kafka_server, redis_server

ASKED = (
    "kill_worker", "kill_trainer", "redis_restart", "kafka_restart", "kafka_unreachable", "rebalance_catch_up", "paused_worker",
    "producer_retry", "duplicates", "misrouted", "retention", "topic_recreated", "aborted_transaction", "poison", "hot_partition",
    "archive_disk_full", "clock_skew",
)  # fmt: skip
PRINTED = "poison"
"""Measured by the command, over services of its own."""
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Services beside the shared ones, which may be harmed."""
    kafka_server(), redis_server()  # what is missing skips here, or fails where CI is set
    folder = tmp_path_factory.mktemp("faults")
    (folder / "sites").mkdir()
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        yield Ground(kafka, redis, folder / "sites")


@pytest.mark.parametrize("name", [name for name in ASKED if name != PRINTED])
def test_nothing_is_lost_and_nothing_doubled(name: str, ground: Ground) -> None:
    told: list[str] = []
    found = measure(name, ground, trials=1, told=told.append)
    assert found == Figures(1, 0, 0, found.recovery_s, found.recovery_s, wrong=[])
    assert found.recovery_s > 0 and told[0].startswith(f"{name} 1/1: lost 0, doubled 0")


def test_the_bench_knows_every_fault_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(FAULTS) == set(ASKED)
    with pytest.raises(SystemExit):
        main(["--only", "poison,flood"])
    assert "no such fault: flood" in capsys.readouterr().err


def test_the_bench_loses_and_doubles_nothing_either_and_prints_its_figures_last(capsys: pytest.CaptureFixture[str]) -> None:
    kafka_server(), redis_server()
    assert main(["--only", PRINTED, "--trials", "1"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert (found["bench"], list(found["faults"])) == ("faults", [PRINTED])
    figures = Figures(**found["faults"][PRINTED])
    assert figures == Figures(1, 0, 0, figures.recovery_s, figures.recovery_s, wrong=[]) and figures.recovery_s > 0
    assert f"{PRINTED} 1/1: lost 0, doubled 0" in said.err
