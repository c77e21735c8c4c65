"""The Dockerfile, as far as it can be read: what it copies exists, what it installs is pinned, what it runs is nobody special."""

import re

import pytest

from freshet.settings import Settings
from tests.docker.reading import DOCKER, ROOT

TEXT = (DOCKER / "Dockerfile").read_text()
LINES = [line.strip() for line in re.sub(r"\\\n\s*", "", TEXT).splitlines() if line.strip() and not line.startswith("#")]
PACKAGES = ("encoders", "freshet", "serving", "storage", "stream", "trainers")


def stage(name: str) -> list[str]:
    """The instructions of a stage."""
    begin = next(n for n, line in enumerate(LINES) if re.fullmatch(rf"FROM \S+ AS {name}", line))
    end = next((n for n in range(begin + 1, len(LINES)) if LINES[n].startswith("FROM ")), len(LINES))
    return LINES[begin + 1 : end]


def copied() -> list[str]:
    """What comes from the build context."""
    found = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    return [path for paths in found for path in paths]


def test_every_file_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert sent[1] == "*" and set(PACKAGES) <= set(copied())
    assert {f"!{path}" for path in copied()} == {line for line in sent if line.startswith("!")}
    assert all((ROOT / path).exists() for path in copied())


def test_stages_are_built_from_stages_or_from_one_python() -> None:
    made = re.findall(r"^FROM (\S+) AS (\S+)$", "\n".join(LINES), flags=re.MULTILINE)
    names = {name for _, name in made}
    assert {base for base, _ in made} - names == {"python:${PYTHON}"} and "ARG PYTHON=3.11-slim" in LINES
    assert set(re.findall(r"COPY --from=(\S+)", TEXT)) <= names


def test_whatever_is_installed_is_pinned() -> None:
    installs = [line for line in LINES if re.search(r"pip .*install", line)]
    assert len(installs) == 4
    assert all("-c constraints.txt" in line or "--no-deps /wheels" in line for line in installs)


@pytest.mark.parametrize(("target", "command"), [("worker", "worker"), ("full", "api")])
def test_an_image_is_an_environment_without_build_tools_and_a_user_without_rights(target: str, command: str) -> None:
    own = stage(target)
    assert own[:2] == [f"COPY --from={target}-build /opt/freshet /opt/freshet", "USER 10001:10001"]
    assert f'CMD ["{command}"]' in own and not [line for line in own if line.startswith("RUN")], "nothing runs after the copy"
    base = "\n".join(stage("base"))
    assert 'ENTRYPOINT ["freshet"]' in base and "HEALTHCHECK" in base and "--uid 10001" in base and "pip" not in base
    assert "python -m venv --without-pip /opt/freshet" in "\n".join(stage("build"))


def test_the_health_check_is_a_program_that_reads_the_address_it_is_given() -> None:
    (check,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', "\n".join(stage("base")))
    compile(check, "healthcheck", "exec")
    assert "os.environ['HEALTH_URL']" in check and f"HEALTH_URL=http://127.0.0.1:{Settings().page_port}/healthz" in TEXT


def test_settings_that_the_image_sets_are_settings() -> None:
    names = set(re.findall(r"\bFRESHET_(\w+)=", TEXT))
    assert names and {name.lower() for name in names} <= set(Settings.model_fields)
