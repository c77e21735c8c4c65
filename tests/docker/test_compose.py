"""compose.yaml against the published schema of compose, and what the schema does not know."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from freshet.commands.cli import app
from tests.docker.reading import DOCKER, ROOT, documents, environment, shipped

COMPOSE = documents("compose.yaml")[0]
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] in ("freshet", "freshet-worker"))
SECRETS = ("FRESHET_REDIS_PASSWORD", "FRESHET_QDRANT_KEY")


def test_it_is_what_the_published_schema_asks_for() -> None:
    """The schema lies in a dev dependency, which carries it from the compose specification."""
    path = shipped("check-jsonschema", "check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    wrong = list(Draft7Validator(json.loads(path.read_text())).iter_errors(COMPOSE))
    assert not wrong, [f"{'/'.join(map(str, error.path))}: {error.message}" for error in wrong]


def test_the_whole_cluster_is_there_with_two_workers() -> None:
    assert set(OURS) == {"topics", "worker", "trainer", "refresher", "api"}
    assert {"kafka", "redis", "qdrant", "prometheus", "grafana"} <= set(SERVICES)
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["image"] == "freshet-worker", "no torch where none is needed"


def test_ports_are_published_on_the_loopback_address_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) > 5 and all(port.startswith("127.0.0.1:") for port in published)


def test_what_a_service_waits_for_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        asked = service.get("depends_on", {})
        for other, how in (asked if isinstance(asked, dict) else {key: {"condition": "service_started"} for key in asked}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits until {other} is healthy, which nobody checks"
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no", f"{other} has an end"


def test_volumes_are_declared_and_folders_exist() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DOCKER / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"], f"{name}: {source}"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert service["env_file"] == ".env", "secrets come from a file that no repository holds"
    assert service["command"][0] in {command.name or command.callback.__name__ for command in commands()}


def commands() -> list[Any]:
    """What `freshet` can be told, groups included."""
    nested = [group.typer_instance for group in app.registered_groups if group.typer_instance and not group.name]
    groups = [group for group in app.registered_groups if group.name]
    return [*app.registered_commands, *groups, *(command for one in nested for command in one.registered_commands)]


def test_our_images_are_built_from_targets_that_are_there() -> None:
    targets = set(re.findall(r"^FROM .* AS (\S+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE))
    builds = [service["build"] for service in SERVICES.values() if "build" in service]
    assert {build["target"] for build in builds} == {"worker", "full"} <= targets
    assert all((DOCKER / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file() for build in builds)


def test_no_secret_is_written_down_and_the_two_must_be_given() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    given = environment()
    for name in SECRETS:
        assert given[name] == "" and f"${{{name}:?" in text
    assert not re.search(r"(?i)(password|key|secret)\S*: *[\"']?(?!\$\{)\w", text), "a secret is interpolated, never written"
    assert re.search(r"^\.env$", (DOCKER / ".gitignore").read_text(), flags=re.MULTILINE)


def test_redis_keeps_what_it_is_told_and_forgets_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert (
        "--appendonly yes --appendfsync everysec --auto-aof-rewrite-min-size 512mb" in command
        and "--maxmemory-policy noeviction" in command
    )
    assert "requirepass %s" in command and command.endswith(" -"), "the password comes by standard input"


def test_addresses_in_the_environment_are_services() -> None:
    given = environment()
    for name in ("FRESHET_KAFKA", "FRESHET_REDIS", "FRESHET_QDRANT"):
        host = given[name].removeprefix("redis://").removeprefix("http://").split(":")[0]
        assert host in SERVICES, f"{name}={given[name]}"
    assert f"INSIDE://{given['FRESHET_KAFKA']}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    stores = [mount for name in ("worker", "trainer", "refresher", "api") for mount in SERVICES[name]["volumes"]]
    assert stores.count(f"store:{given['FRESHET_STORE']}") == 4, "one store that all share"
    assert Path(given["FRESHET_DATA"]) == Path("/var/lib/freshet")
