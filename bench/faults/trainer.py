"""What happens to the trainer: killed while it trains, and again when it has proposed. Another leads, and nothing is half promoted."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench.faults.judging import Verdict, judged
from bench.faults.plain import plain_log
from bench.faults.sites import Ground, Process, Site
from bench.services import LOOPBACK, free_port
from freshet.world.events import World, WorldConfig
from storage.models import Live
from storage.models_redis import RedisRegistry
from storage.places import place_of
from stream.shape import Shape

TRAINED_S: Final = 180.0
CADENCE: Final = {"TRAIN_EVENTS_MIN": "1000", "TRAIN_INTERVAL_S": "1", "TRAIN_SECONDS_MAX": "6"}


def kill_trainer(ground: Ground, trial: int) -> Verdict:
    """Of three the one that trains is killed with `kill -9`, and the next one after proposing: the third promotes, and look-ups use it."""
    port = free_port()
    with Site(ground, partitions=2, shape=Shape()) as site:
        registry = RedisRegistry(site.state._client, place_of(str(site.folder / "store" / "models")), site.name)
        site.worker()
        site.process("api", "--port", str(port), DATA=str(site.folder / "api"))
        _publish(site, seed=trial)
        site.wait_applied()
        trainers = [site.process("trainer", "--port", str(free_port()), DATA=str(site.folder / f"t{n}"), **CADENCE) for n in range(3)]
        _kill(_trains(site, trainers))
        second = _trains(site, trainers)
        _wait_for(site, trainers, _or_more_events(site, registry, lambda: registry.candidate() is not None))
        _kill(second)
        killed, proposed = time.monotonic(), registry.candidate()
        early = f"{live.version} went live, and nobody promoted it" if (live := registry.live()) else ""
        live_alone = _or_more_events(site, registry, lambda: registry.live() is not None and registry.candidate() is None)
        _wait_for(site, trainers, live_alone)
        recovery_s = time.monotonic() - killed
        _wait_for(site, trainers, lambda: _answers_from(port) == getattr(registry.live(), "version", ""))
        wrong = _half_promoted(registry, registry.live(), proposed)
        for trainer in trainers:
            if trainer.poll() is None:
                site.stop(trainer)
        site.wait_applied()
        return judged(site, plain_log(site), recovery_s=recovery_s).and_also(early, *wrong)


def _publish(site: Site, *, seed: int) -> None:
    world = World(WorldConfig(seed=seed, users=120, items=150, events=4000)).write_csv(site.folder / f"world-{seed}")
    site.freshet("produce", str(world), "--entities", str(world.with_name("entities.jsonl")))


def _or_more_events(site: Site, registry: RedisRegistry, ready: Callable[[], bool]) -> Callable[[], bool]:
    """After a refusal nobody trains again without new events: here they are, of another world."""
    refused = [0]

    def asked() -> bool:
        if ready():
            return True
        refusals = sum(not decision["promoted"] for decision in registry.decisions())
        if refusals > refused[0]:
            refused[0] = refusals
            _publish(site, seed=1000 + refusals)
        return False

    return asked


def _trains(site: Site, trainers: Sequence[Process]) -> Process:
    """The one whose child has begun."""
    found: list[Process] = []

    def begun() -> bool:
        found.extend(trainer for trainer in trainers if trainer.poll() is None and _children(trainer.pid))
        return bool(found)

    _wait_for(site, trainers, begun)
    return found[0]


def _kill(trainer: Process) -> None:
    """With its child, which nobody looks after any more."""
    children = _children(trainer.pid)
    trainer.kill()
    trainer.wait()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _wait_for(site: Site, trainers: Sequence[Process], ready: Callable[[], bool]) -> None:
    site.wait(ready, alive=lambda: any(trainer.poll() is None for trainer in trainers), seconds=TRAINED_S)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _half_promoted(registry: RedisRegistry, live: Live | None, proposed: str | None) -> list[str]:
    """What is live is whole, was decided on once, and is not what the killed one proposed."""
    assert live is not None, "somebody promoted"
    promoted = [decision["version"] for decision in registry.decisions() if decision["promoted"]]
    wrong = [] if promoted == [live.version] and live.sequence == 1 else [f"decided: {promoted}, live: {live}"]
    if live.version == proposed:
        wrong.append(f"{proposed} went live without a decision of its own trainer")
    registry.files(live.version)  # raises for a version that is not whole
    return wrong


def _answers_from(port: int) -> Any:
    with suppress(OSError), urllib.request.urlopen(f"http://{LOOPBACK}:{port}/v1/status", timeout=10) as answer:
        return json.load(answer)["answers_from"]
    return None
