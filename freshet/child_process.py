"""How a process that works for another of ours is started: the same interpreter and code, so many threads, nothing of where it runs.

Not how it is spoken to, nor when it ends: that is for who starts it.

    subprocess.Popen(module("freshet.learning.learn", "job.json"), env=environment(threads=1))
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", name, *arguments]


def environment(*, threads: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our own, and what is given besides; it runs where we run, so that relative paths mean the same in it."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    counts = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    ours = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # the second: nothing is imported from the folder we run in
    return {**os.environ, **counts, **ours, **(more or {})}
