"""The thread that keeps a process up to date goes on whatever is away, says so seldom, and leaves in order."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from bench.services import wait_until
from freshet.clock import now_ms
from freshet.processes.naming import NAME_MAX, process_name
from freshet.processes.pulse import Pulse
from storage.vectors_local import VectorServer
from tests.freshet.followed import Followed, node


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    yield made
    made.close()


def test_it_follows_beats_flips_and_says_that_it_is_gone(site: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is there when it begins is never looked through again by a garbage collector, in the middle of a look-up."""
    process, collected = site.process("api", refreshes=True), list[bool]()
    monkeypatch.setattr("freshet.processes.pulse.collect_seldom", lambda: collected.append(True))
    pulse = Pulse(process.whole, name="api")
    pulse.start()
    site.put("i1", title="Rook")
    wait_until(lambda: process.serving.view.catalogue.row(node("i1")) >= 0, seconds=10)
    site.store("g1-1", 1)
    site.registry().propose("g1-1")
    wait_until(lambda: any(beat.built == "g1-1" for beat in site.health.read()), seconds=20)
    (beat,) = site.health.alive(now_ms(), within_ms=10_000)
    assert (beat.process, beat.version, beat.candidate) == (process_name("api"), None, "g1-1")
    site.promote("g1-1")
    wait_until(lambda: process.version == "g1-1", seconds=20)
    pulse.stop()
    assert pulse.error is None and not pulse.is_alive() and collected == [True]
    assert site.health.read() == []
    leases = process.whole.leases
    assert leases is not None and leases.held == set()
    assert not list(site.client.scan_iter(f"{site.prefix}:lease:*"))


@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
def test_while_the_vectors_are_away_the_view_is_kept_fresh_and_it_is_told_once(site: Followed, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        away = QdrantClient(url=f"http://127.0.0.1:{nobody.getsockname()[1]}", check_compatibility=False, timeout=2)
        process = site.process("api", refreshes=False, vectors=VectorServer(away))
        site.store("g1-1", 1)
        site.promote("g1-1")
        pulse = Pulse(process.whole, name="api")
        pulse.start()
        wait_until(lambda: "store_away" in caplog.text, seconds=10)
        for n in range(3):
            site.put(f"i{n}")
            wait_until(lambda: len(process.serving.view.catalogue) > n, seconds=10)  # noqa: B023  # waited for here
        assert pulse.is_alive() and now_ms() - pulse.moved_ms < 10_000
        assert process.version is None
        pulse.stop()
        away.close()
    assert caplog.text.count("store_away") == 1
    assert site.health.read() == []


def test_an_error_of_ours_ends_it_and_is_kept(site: Followed, caplog: pytest.LogCaptureFixture) -> None:
    process = site.process("api", refreshes=False)
    site.client.set(f"{site.prefix}:{{models}}:live", b"\xff" * 10)
    site.client.hset(f"{site.prefix}:health", "x.1", b"no beat")
    pulse = Pulse(process.whole, name="api")
    pulse.start()
    wait_until(lambda: "version_unusable" in caplog.text, seconds=10)
    assert pulse.is_alive(), "a damaged record is not ours"
    key = next(key for *_, key in process.whole.follower._feed._feeds)
    number = int(site.client.hget(key.replace("changes:events", "stream:events"), "s") or 0)
    site.client.xadd(key, {"c": b"nonsense"}, id=f"{number + 1}-0")
    wait_until(lambda: pulse.error is not None, seconds=10)
    assert "pulse_stopped" in caplog.text
    pulse.stop()
    assert not pulse.is_alive()


def test_names_of_processes_fit_and_differ_where_machines_do(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for machine in ("freshet-" + "x" * 60 + "-ab12", "freshet-" + "x" * 60 + "-cd34", "a.host/odd"):
        monkeypatch.setattr(socket, "gethostname", lambda machine=machine: machine)
        names.append(process_name("refresher"))
    assert names[2] == "refresher-a-host-odd"
    assert len(set(names)) == 3 and max(map(len, names)) <= NAME_MAX
