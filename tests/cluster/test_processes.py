"""The cluster form over the command line: worker, api and trainer as a person starts them, and a world that goes through them.

Without a Qdrant server the one api process keeps the vectors; where FRESHET_TEST_QDRANT_URL names one, a refresher does.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bench.services import RedisServer, free_port, wait_until
from freshet.world.events import World, WorldConfig
from storage.vectors import generation_of
from tests.services import kafka_server

ROOT = Path(__file__).resolve().parents[2]
QDRANT = os.environ.get("FRESHET_TEST_QDRANT_URL")
WORLD = WorldConfig(seed=1, users=80, items=120, events=3000)
STARTED_S, LEARNED_S, SEEN_S, STOP_S = 120.0, 180.0, 60.0, 10.0


class Installation:
    """Processes over a Kafka, a Redis of its own, and one folder."""

    def __init__(self, folder: Path, redis: RedisServer, **settings: object) -> None:
        self.folder, self.redis = folder, redis
        ours = {
            "kafka": kafka_server().bootstrap, "kafka_prefix": f"{uuid.uuid4().hex[:8]}-", "redis": redis.url, "partitions": 3,
            "store": folder / "store", "data": folder / "data", "archive_s": 1, "train_events_min": 500, "train_interval_s": 3,
            "train_seconds_max": 20, **settings,
        }  # fmt: skip
        named = {f"FRESHET_{name.upper()}": str(value) for name, value in ours.items()}
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **named}
        self.refusals = 0
        self.running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def run(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "freshet", *arguments]
        return subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=False)

    def start(self, kind: str, *arguments: str, name: str = "") -> "subprocess.Popen[bytes]":
        """Start a process; it answers when `up` says so."""
        port = free_port()
        with self._output(name or kind).open("ab") as sink:
            command = [sys.executable, "-m", "freshet", kind, "--port", str(port), *arguments]
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        self.running[name or kind] = (process, port)
        return process

    def output(self, name: str) -> str:
        return self._output(name).read_text(errors="replace")

    def up(self, name: str) -> None:
        process, _ = self.running[name]
        wait_until(lambda: self.status_code(name) == 200, seconds=STARTED_S, alive=lambda: process.poll() is None)

    def status_code(self, name: str, path: str = "/healthz") -> int:
        with suppress(httpx.TransportError):
            return httpx.get(self.address(name) + path, timeout=10).status_code
        return 0

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.running[name][1]}"

    def get(self, path: str, **query: Any) -> Any:
        answer = httpx.get(f"{self.address('api')}{path}", params=query, timeout=20)
        return answer.json() if answer.status_code == 200 else {"status": answer.status_code, **answer.json()}

    def post(self, path: str, body: object) -> Any:
        answer = httpx.post(f"{self.address('api')}{path}", content=msgspec.json.encode(body), timeout=20)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def event(self, user: str, item: str) -> int:
        """One more; its token's number."""
        body = {"user_id": user, "item_id": item, "action": "like", "ts_ms": int(time.time() * 1000)}
        return int(self.post("/v1/events", body)["token"]["number"])

    def stop(self, name: str) -> float:
        """SIGTERM; how long it took to end in order."""
        process, _ = self.running[name]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, self.output(name)[-2000:]
        return time.monotonic() - began

    def close(self) -> None:
        for process, _ in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The world is published; a worker, an api and a trainer run."""
    folder = tmp_path_factory.mktemp("processes")
    with RedisServer(folder / "redis") as redis:
        made = Installation(folder, redis)
        try:
            assert made.run("topics", "create").returncode == 0
            for kind in ("worker", "api", "trainer"):
                made.start(kind)
            World(WORLD).write_csv(folder / "world")
            told = made.run("produce", "world/events.csv", "--entities", "world/entities.jsonl")
            assert told.returncode == 0, told.stderr
            for kind in ("worker", "api", "trainer"):
                made.up(kind)
            yield made
        finally:
            made.close()


def answers_from(site: Installation) -> str | None:
    """The version the api answers from; while the gate has refused all, more events come."""
    with suppress(httpx.TransportError):
        status = site.get("/v1/status")
        version: str | None = status.get("answers_from")
        judged = [decision for decision in status.get("decisions", []) if not decision["reason"].startswith("failed")]
        if version is None and len(judged) > site.refusals:
            site.refusals = len(judged)
            site.post("/v1/events", list(World(replace(WORLD, seed=9 + site.refusals, events=700)).events())[:600])
        return version
    return None


def test_a_world_goes_through_and_everything_is_answered_from_it(site: Installation) -> None:
    wait_until(lambda: answers_from(site) is not None, seconds=LEARNED_S)
    first = site.get("/v1/users/u1/recommendations", k=5)
    assert first["model"] == answers_from(site) and len(first["items"]) == 5
    taken = first["items"][0]["item_id"]
    number = site.event("u1", taken)
    then = site.get("/v1/users/u1/recommendations", k=5, min_number=number, wait_ms=5000)
    assert then["fresh"] is True
    assert taken not in [item["item_id"] for item in then["items"]], "what was just taken is not offered again"
    site.post("/v1/entities", {"kind": "item", "id": "newborn", "title": first["items"][0]["title"], "ts_ms": int(time.time() * 1000)})
    wait_until(lambda: bool(site.get("/v1/items/newborn/similar", k=3).get("items")), seconds=SEEN_S)
    wait_until(lambda: msgspec.json.decode(site.run("lag", "--json").stdout)["lag_records"] == 0, seconds=SEEN_S)


def test_an_api_learns_weights_from_what_is_published(site: Installation) -> None:
    wait_until(lambda: answers_from(site) is not None, seconds=LEARNED_S)
    pairs = iter(range(100_000))

    def learned() -> bool:
        n = next(pairs)
        site.event(f"u{1 + n % 7}", f"i{n // 7}")
        status = site.get("/v1/status")
        return bool(status["weights"] and status["weights"]["learned_from"] and status["online"]["cases"])

    wait_until(learned, seconds=SEEN_S)
    metrics = httpx.get(f"{site.address('api')}/metrics", timeout=20).text
    assert "freshet_online_cases 0" not in metrics and "freshet_online_cases" in metrics
    weights = site.get("/v1/status")["weights"]
    process, _ = site.running["api"]
    process.terminate()
    assert process.wait(STOP_S) == 0
    site.start("api")
    site.up("api")
    again = site.get("/v1/status")["weights"]
    assert again["learned_from"] >= weights["learned_from"] > 0, "what was learned is kept where all find it"


def test_an_api_that_is_killed_and_started_again_answers(site: Installation) -> None:
    wait_until(lambda: answers_from(site) is not None, seconds=LEARNED_S)
    before = answers_from(site)
    process, _ = site.running["api"]
    process.kill()
    process.wait()
    site.start("api")
    site.up("api")
    assert site.get("/v1/users/u2/recommendations", k=3)["model"] == before
    number = site.event("u2", "i5")
    assert site.get("/v1/users/u2/recommendations", k=3, min_number=number, wait_ms=5000)["fresh"] is True


def test_a_second_api_on_the_same_folder_is_told_so_in_one_line(site: Installation) -> None:
    second = site.run("api", "--port", str(free_port()), seconds=STARTED_S)
    assert second.returncode == 1
    (line,) = [line for line in second.stderr.splitlines() if line.startswith("error")]
    assert "is in use by process" in line and "Traceback" not in second.stderr
    assert site.status_code("api") == 200


def test_a_redis_that_is_restarted_is_found_again_by_all(site: Installation) -> None:
    site.redis.stop()
    wait_until(lambda: site.status_code("api", "/v1/users/u3/recommendations") == 503, seconds=SEEN_S)
    wait_until(lambda: all("store_away" in site.output(name) for name in ("api", "trainer")), seconds=SEEN_S)
    assert site.status_code("api") == 200, "to start the process anew would bring nothing back"
    site.redis.start()
    wait_until(lambda: site.status_code("api", "/v1/users/u3/recommendations") == 200, seconds=SEEN_S)
    wait_until(lambda: "view_loaded_again" in site.output("api"), seconds=SEEN_S)
    number = site.event("u3", "i7")
    assert site.get("/v1/users/u3/recommendations", k=3, min_number=number, wait_ms=5000)["fresh"] is True
    assert site.output("api").count("store_away") <= 3, "once a minute of each kind"
    assert "Traceback" not in site.output("api")


def test_each_ends_in_order_within_ten_seconds(site: Installation) -> None:
    took = {name: site.stop(name) for name in ("trainer", "api", "worker")}
    assert max(took.values()) < STOP_S, took
    for name in took:
        assert "Traceback" not in site.output(name), site.output(name)[-3000:]
    with site.redis.client() as client:
        left = {int(key.decode().rpartition(".")[2]) for key in client.hkeys("freshet:health")}
        assert left.isdisjoint(process.pid for process, _ in site.running.values()), "each has said that it is gone"
        assert not list(client.scan_iter("freshet:lease:*"))


def test_a_service_that_hangs_does_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        site = Installation(tmp_path, redis)
        try:
            assert site.run("topics", "create").returncode == 0
            for kind in ("api", "trainer"):
                site.start(kind)
            for kind in ("api", "trainer"):
                site.up(kind)
            redis.pause()
            began = time.monotonic()
            for process, _ in site.running.values():
                process.send_signal(signal.SIGTERM)
            for process, _ in site.running.values():
                process.wait(30)
            assert time.monotonic() - began < STOP_S + 5, "a clock of nine seconds ends them; busy processors let it ring late"
        finally:
            redis.resume()
            site.close()


@pytest.mark.skipif(QDRANT is None, reason="set FRESHET_TEST_QDRANT_URL to the address of a Qdrant server")
def test_with_a_qdrant_server_a_refresher_fills_it_and_two_apis_answer_from_it(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(QDRANT, prefer_grpc=True)
    for known in client.get_collections().collections:
        if generation_of(known.name) is not None:
            client.delete_collection(known.name)
    with RedisServer(tmp_path / "redis") as redis:
        site = Installation(tmp_path, redis, qdrant=QDRANT)
        try:
            assert site.run("topics", "create").returncode == 0
            for kind in ("worker", "refresher", "api", "trainer"):
                site.start(kind)
            site.start("api", name="second")
            World(WORLD).write_csv(tmp_path / "world")
            assert site.run("produce", "world/events.csv", "--entities", "world/entities.jsonl").returncode == 0
            for name in site.running:
                site.up(name)
            wait_until(lambda: answers_from(site) is not None, seconds=LEARNED_S)
            version = answers_from(site)
            second = f"{site.address('second')}/v1/users/u1/recommendations"
            wait_until(lambda: httpx.get(second, timeout=20).json()["model"] == version, seconds=SEEN_S)
            site.post("/v1/entities", {"kind": "item", "id": "newborn", "title": "Rook", "ts_ms": int(time.time() * 1000)})
            similar = f"{site.address('second')}/v1/items/newborn/similar"
            wait_until(lambda: bool(httpx.get(similar, timeout=20).json().get("items")), seconds=SEEN_S)
            took = {name: site.stop(name) for name in ("trainer", "refresher", "second", "api", "worker")}
            assert max(took.values()) < STOP_S, took
        finally:
            site.close()
            client.close()
