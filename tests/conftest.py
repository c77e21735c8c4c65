"""What every test shares: quiet threads, a clean environment, and how hard hypothesis looks.

Shapes in annotations are checked where tensors live; see `shape_checks.py`.

    pytest tests/storage --hypothesis-profile thorough
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import shape_checks

ROOT = Path(__file__).resolve().parents[1]
for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):  # read once, when the library loads: so before any test imports it
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

COMPILED = "kernels"  # numba reads the functions themselves
folders = ("encoders", "trainers")
modules = [f"{folder}.{path.stem}" for folder in folders for path in (ROOT / folder).glob("*.py") if not path.stem.endswith(COMPILED)]
install_import_hook(modules, f"{shape_checks.__name__}.checked")

# A kernel compiles inside the first example: no deadline. Seeded by the test itself: the same examples on every run.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _settings_come_from_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's FRESHET_ variables do not reach a test, except FRESHET_TEST_..., which name real services to test with."""
    for name in list(os.environ):
        if name.startswith("FRESHET_") and not name.startswith("FRESHET_TEST_"):
            monkeypatch.delenv(name)
