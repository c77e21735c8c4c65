"""What a figure was measured on: commit, versions, cores, peak memory."""

import os
import platform
import resource
import subprocess
from pathlib import Path

import numpy as np


def versions() -> dict[str, object]:
    """Fields that every report carries; a changed tree adds `+` to the commit."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "cores": len(os.sched_getaffinity(0)),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def commit() -> str:
    """The commit of the tree this runs in; "unknown" outside one."""
    root = Path(__file__).parents[1]
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if found.returncode:
        return "unknown"
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
