"""The house stays a house: small files and functions, one import direction, a README whose tree is true.

Exceptions are listed by name below, each with its reason. Import rules are `make check`'s (import-linter), style is ruff's.

    pytest tests/test_house_rules.py
"""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("freshet", "stream", "trainers", "serving", "encoders", "storage", "bench")
HIDDEN = {".git", ".venv", ".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "out", "data", "dist"}

LINES_MAX = 400
FUNCTION_LINES_MAX = 70
NO_SUBJECT = {"utils", "common", "helpers", "misc", "manager"}

ARGUED_FOR: set[str] = set()  # "path" or "path:function" beyond the sizes, with the reason: "trainers/loop.py:train",  # one loop
PATHS_ARGUED_FOR: set[str] = set()  # files that must name an absolute path of their own machine, such as a container's
HOSTS_ARGUED_FOR: set[str] = set()  # files that must name a registry

MACHINE_PATH = re.compile(r"(?<![\w.\-])/(?:work|root|home|Users)/")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|repo1?\.maven\.(?:apache\.)?org|registry\.npmjs\.org|crates\.io|proxy\.golang\.org|deb\.debian\.org"
)


def in_the_repository() -> list[Path]:
    """Every file that is tracked or would be, relative to the root."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, or a machine without git
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        return sorted(path for path in paths if not HIDDEN & set(path.parts))
    return sorted(Path(name) for name in set(listed.stdout.split("\0")) if name and (ROOT / name).is_file())


FILES = in_the_repository()
PYTHON = [path for path in FILES if path.suffix == ".py"]
EXAMPLES = [path for path in PYTHON if path.parts[0] == "examples"]


def python(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def text_of(path: Path) -> str:
    """The file's text; nothing where there is no file, or no text in it."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def project() -> dict[str, str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, str] = tomllib.load(file)["project"]
    return table


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_a_file_is_small_and_has_a_subject(path: Path) -> None:
    source = text_of(path)
    tree = ast.parse(source)
    assert not NO_SUBJECT & set(path.with_suffix("").parts), "say what it is about"
    assert len(source.splitlines()) <= LINES_MAX or path.as_posix() in ARGUED_FOR
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f"{path.as_posix()}:{node.name}" not in ARGUED_FOR:
            lines = (node.end_lineno or 0) - node.lineno
            assert lines < FUNCTION_LINES_MAX, f"{node.name} has {lines + 1} lines"
    if path.name == "__init__.py":
        assert ast.get_docstring(tree) and len(tree.body) == 1, "prose, and nothing else"
    elif path.parts[0] != "tests" or path.name.startswith("test_"):
        assert ast.get_docstring(tree), "a module says what it is for"


@pytest.mark.parametrize("path", [path for path in PYTHON if path.parts[0] == "tests"], ids=str)
def test_a_test_does_not_wait_for_time_to_pass(path: Path) -> None:
    called = [node.func for node in ast.walk(ast.parse(text_of(path))) if isinstance(node, ast.Call)]
    names = {name.attr if isinstance(name, ast.Attribute) else name.id for name in called if isinstance(name, ast.Attribute | ast.Name)}
    assert "sleep" not in names, "time is an argument; wait on a condition"


def test_python_lies_only_where_it_can_be_imported_from() -> None:
    assert not [path for path in PYTHON if path.parts[0] == "docker"], "`import docker` would find our folder"
    assert not [path for path in PYTHON if path.parts[0] == "tests" and path.name == "__init__.py"], "tests/stream would hide stream"
    stray = [path for path in PYTHON if path.parts[0] not in {*PACKAGES, "tests", "examples"}]
    assert not stray, "every module has a room"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_ships_our_import_names(package: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(package, []))
    assert owners <= {"freshet"}, f"uninstall {owners - {'freshet'}}: it also calls itself {package}"


def test_the_record_loads_nothing_heavy() -> None:
    code = "import sys, stream.events; print({'numpy', 'torch', 'faust', 'kafka', 'pyarrow'} & set(sys.modules) or '')"
    loaded = python("-c", code)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def test_the_stores_load_neither_torch_nor_faust() -> None:
    stores = [f"storage.{path.stem}" for path in PYTHON if path.parts[0] == "storage" and path.name != "__init__.py"]
    code = f"import sys, {', '.join(stores)}; print({{'torch', 'faust', 'fastapi', 'kafka'}} & set(sys.modules) or '')"
    loaded = python("-c", code)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


@pytest.mark.parametrize("module", ["freshet.commands.producing", "freshet.cluster", "freshet.processes.trainer_loop"])
def test_who_computes_nothing_with_tensors_does_not_wait_for_them_to_load(module: str) -> None:
    loaded = python("-c", f"import sys, {module}; print({{'torch', 'river', 'qdrant_client', 'qdrant_edge'}} & set(sys.modules) or '')")
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def tree_in_the_readme() -> dict[str, dict[str, str]]:
    """Folder -> entry -> what the README says of it, from the fenced block with a line for each package."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text_of(Path("README.md")), flags=re.DOTALL | re.MULTILINE):
        tree: dict[str, dict[str, str]] = {}
        folder = ""
        for line in block.splitlines():
            match = re.fullmatch(r"([\s│├└─]*)([\w.\-/<>*]+)(?:\s+(.*))?", line)
            if not match:
                continue
            indent, name, said = match.groups(default="")
            if not indent and "/" in name:
                folder = name.split("/")[0]  # `docs/adr/` and `tests/<folder>/test_<file>.py` speak for docs and tests
                tree.setdefault(folder, {})
            elif indent and folder and (name.endswith(("/", ".py")) or (ROOT / folder / name).exists()):
                tree[folder][name] = said
        if set(PACKAGES) <= set(tree):
            return tree
    return {}


def test_the_readme_shows_the_tree_that_is_there() -> None:
    tree = tree_in_the_readme()
    assert tree, f"README.md needs a fenced block with a line for each of {', '.join(PACKAGES)}"
    folders = {path.parts[0] for path in FILES if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    assert folders <= set(tree), f"not in the README: {sorted(folders - set(tree))}"
    absent = [f"{folder}/{name}" for folder in tree for name in ["", *tree[folder]] if not (ROOT / folder / name).exists()]
    assert not absent, f"in the README, but not there: {absent}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_readme_has_a_line_for_every_module(package: str) -> None:
    said = tree_in_the_readme().get(package, {})
    modules = {path.relative_to(package).as_posix() for path in PYTHON if path.parts[0] == package and path.name != "__init__.py"}
    listed = {name for name in said if name.endswith(".py") and name != "__init__.py"}
    assert modules == listed, f"not in the README: {sorted(modules - listed)}; not there: {sorted(listed - modules)}"
    assert all(said[name] for name in listed), f"listed without a word: {[name for name in listed if not said[name]]}"


def test_the_changelog_and_the_package_agree_on_the_version() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", text_of(Path("CHANGELOG.md")), flags=re.MULTILINE)
    assert newest is not None, "CHANGELOG.md has no heading like `## 0.1.0`"
    assert newest[1] == project()["version"]


def test_every_dependency_is_pinned_to_one_version() -> None:
    lines = text_of(Path("constraints.txt")).splitlines()
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)], "names and versions only"
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    with (ROOT / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)
    wanted = [*config["project"]["dependencies"], *config["project"]["optional-dependencies"]["dev"], *config["build-system"]["requires"]]
    assert {re.split(r"[^A-Za-z0-9-]", name)[0].lower() for name in wanted} <= pinned


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_names_neither_this_machine_nor_a_registry(path: Path) -> None:
    text = text_of(path)
    assert path.as_posix() in PATHS_ARGUED_FOR or not MACHINE_PATH.search(text), "an absolute path of one machine"
    assert path.as_posix() in HOSTS_ARGUED_FOR or not REGISTRY_HOST.search(text), "which registry is the caller's choice"


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_an_example_runs(path: Path) -> None:
    ran = python(path.as_posix())
    assert ran.returncode == 0, ran.stderr
