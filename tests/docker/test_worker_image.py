"""The worker's image has no torch: what the worker imports is what docker/worker.txt brings, and it starts without the rest."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement

from bench.services import free_port
from tests.docker.reading import DOCKER, ROOT

IMPORTS = """
import json, sys
import freshet.commands.cli, freshet.clock, freshet.cluster, stream.app, stream.archiver, stream.entity_writer, stream.worker
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from freshet.commands.cli import main
sys.argv = ["freshet", "worker"]
main()
"""


def child(program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | {f"FRESHET_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def brought(names: set[str]) -> set[str]:
    """These distributions and what they need, as far as it is installed; names in pip's normal form."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [one.name for one in map(Requirement, needs) if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> set[str]:
    return set((DOCKER / "worker.txt").read_text().split())


def absent() -> set[str]:
    """Import names of everything that is installed here and not in the worker's image."""
    there = brought(wanted()) | {"freshet"}
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if not {normal(name) for name in names} & there and module != "_distutils_hack"}


def test_the_worker_loads_no_torch_and_nothing_that_its_image_lacks() -> None:
    loaded = child(IMPORTS)
    assert loaded.returncode == 0, loaded.stderr
    modules = set(json.loads(loaded.stdout))
    assert not modules & {"torch", "qdrant_client", "fastapi", "river"}
    optional = {"scipy", "yaml", "opentelemetry"}  # used by numba and redis where they are there
    assert not {name for name in modules & absent() - optional if not name.startswith(("coverage", "a1_"))}


def test_without_all_that_a_worker_says_in_one_line_that_kafka_is_away() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    ran = child(f"ABSENT = {sorted(absent() - {'coverage'})!r}\n{WITHOUT}", kafka=nobody, redis=f"redis://{nobody}")
    told = ran.stderr.strip().splitlines()
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert len(told) == 1 and told[0].startswith("error: Redis at ") and nobody in told[0], ran.stderr


def test_what_the_image_installs_are_dependencies_of_the_project_and_none_is_torch() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = {normal(Requirement(line).name) for line in tomllib.load(file)["project"]["dependencies"]}
    assert wanted() <= dependencies
    assert not {name for name in brought(wanted()) if name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-"))}
