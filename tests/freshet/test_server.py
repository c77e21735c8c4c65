"""`freshet serve` as applications, producers and accidents meet it."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from storage.log import Record
from storage.log_lmdb import LmdbLog
from storage.state_lmdb import LmdbState, boot_id
from stream.events import Event
from stream.ingest import EVENTS, Tally
from stream.shape import Shape
from tests.freshet.running import Running, server
from tests.stream.event_logs import stored, wanted
from tests.stream.oracle import Oracle

KILLS = 5
BATCH = 20
NEVER = 10**9
START_MS = 1_700_000_000_000


def event(n: int, rng: random.Random) -> Event:
    """The n-th event of the load: a few users and items, so that lists fill up."""
    return Event(
        event_id=f"e{n}", user_id=f"u{rng.randrange(20)}", action="like", item_id=f"i{rng.randrange(60)}", ts_ms=START_MS + 1000 * n
    )


class Load(threading.Thread):
    """Posts batch after batch, each again and again until it is acknowledged, to whichever server is up, until there is enough."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._rng, self.sent = rng, 0
        self.client: httpx.Client | None = None
        self.up, self.some, self.enough = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            batch = msgspec.json.encode([event(BATCH * self.sent + k, self._rng) for k in range(BATCH)])
            while not self._acknowledged(batch):
                self.up.wait(0.01)
            self.sent += 1
            self.some.set()

    def _acknowledged(self, batch: bytes) -> bool:
        assert self.up.wait(120)
        client = self.client
        assert client is not None
        try:
            return client.post("/v1/events", content=batch).status_code == 202
        except (httpx.TransportError, RuntimeError):  # killed, or its client closed
            return False


def test_a_killed_server_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    rng, folder = random.Random(7), tmp_path / "data"
    load = Load(random.Random(8))
    folder.mkdir()
    load.start()
    for _ in range(KILLS):
        with server(folder, train_events_min=NEVER) as running:
            load.client = running.client
            load.some.clear()
            load.up.set()
            assert load.some.wait(30)
            load.join(rng.uniform(0.05, 0.6))
            load.up.clear()
            running.kill()
    with server(folder, train_events_min=NEVER) as running:
        load.client = running.client
        load.some.clear()
        load.up.set()
        assert load.some.wait(30)
        load.enough.set()
        load.join(120)
        assert not load.is_alive()
        settle(running)
        assert running.stop() == 0
    with LmdbLog(folder / "log", read_only=True) as log:
        oracle, records = told_by_the_log(log)
    state = LmdbState(folder / "state", boot_id=boot_id(), read_only=True)
    try:
        assert stored(state) == wanted(oracle)
        (blob,) = state.read("tallies", 0, np.array([1], dtype=np.uint64))
        tally = msgspec.json.decode(blob or b"{}", type=Tally)
    finally:
        state.close()
    assert tally.accepted == len(records)
    assert tally.accepted - tally.duplicates == BATCH * load.sent, "every event had its effect once"


def settle(running: Running) -> None:
    """Wait until what was appended is applied."""
    end = running.client.get("/v1/status").json()["partitions"][0]["end"]
    reply = running.client.get("/v1/users/nobody/recommendations", params={"min_number": end - 1, "wait_ms": 5000})
    assert reply.json()["fresh"]


def told_by_the_log(log: LmdbLog) -> tuple[Oracle, list[Record]]:
    """The oracle over every record that was acknowledged, in log order."""
    oracle, records = Oracle(Shape()), log.read(EVENTS, 0, 0, records_max=10**9)
    for record in records:
        oracle.apply(msgspec.json.decode(record.value, type=Event), origin=f"{EVENTS}:0:0:{record.offset}:0")
    return oracle, records


def test_one_more_event_changes_the_answer(tmp_path: Path) -> None:
    rng = random.Random(3)
    (tmp_path / "data").mkdir()
    with server(tmp_path / "data", train_events_min=NEVER) as running:

        def ask(**how: object) -> dict[str, Any]:
            found: dict[str, Any] = running.client.get("/v1/users/u1/recommendations", params={"k": 10, **how}).json()  # type: ignore[dict-item]
            return found

        token = running.client.post("/v1/events", content=msgspec.json.encode([event(n, rng) for n in range(400)])).json()["token"]
        before = ask(min_number=token["number"], wait_ms=5000)
        taken = before["items"][0]["item_id"]
        one = Event(user_id="u1", action="like", item_id=taken, ts_ms=START_MS + 10**7)
        token = running.client.post("/v1/events", content=msgspec.json.encode(one)).json()["token"]
        after = ask(min_number=token["number"], wait_ms=5000)
        assert after["fresh"]
        assert taken not in [item["item_id"] for item in after["items"]]
        assert [i["item_id"] for i in after["items"]] != [i["item_id"] for i in before["items"]]
        assert after["as_of"]["number"] > before["as_of"]["number"]
        assert after["as_of"]["ts_ms"] == START_MS + 10**7


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"not json", b'{"user_id": 3}', b"[1, 2]", b"{}" * 3])
def test_bad_bodies_never_end_the_server(shared: Running, body: bytes) -> None:
    assert shared.client.post("/v1/events", content=body).status_code in (202, 400)
    assert shared.client.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shared") / "data"
    folder.mkdir()
    with server(folder, train_events_min=NEVER) as running:
        yield running
