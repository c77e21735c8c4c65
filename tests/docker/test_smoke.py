"""docker/smoke as far as it goes without Docker: it parses, may be run, and uses names that exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.docker.reading import DOCKER, documents

SMOKE = DOCKER / "smoke"


def test_it_is_a_script_that_parses_and_stops_at_the_first_error() -> None:
    parsed = subprocess.run(["bash", "-n", str(SMOKE)], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    text = SMOKE.read_text()
    assert os.access(SMOKE, os.X_OK) and text.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in text
    assert "down --volumes" in text, "it leaves nothing behind"


def test_without_docker_it_says_so_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(str(shutil.which("dirname")))
    ran = subprocess.run([str(shutil.which("bash")), str(SMOKE)], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert "docker is not installed" in ran.stderr and ran.returncode == 1


def test_it_names_services_and_ports_of_the_compose_file() -> None:
    services = documents("compose.yaml")[0]["services"]
    text = SMOKE.read_text()
    assert set(re.findall(r"compose (?:exec -T|ps --quiet|stop --timeout 15|up --detach) (\w+)", text)) <= set(services)
    published = {port.split(":")[1] for service in services.values() for port in service.get("ports", [])}
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", text)) <= published
