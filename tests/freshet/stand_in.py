"""A stand-in for the trainer's child of the cluster form: it leaves the files of a small real model, or fails as it is told.

says = StandIn(folder, monkeypatch); says.shell("exit 1")
"""

import sys
from pathlib import Path

import msgspec
import pytest

from freshet.learning.job import Report
from freshet.version_files import REPORT_FILE
from tests.freshet.followed import trained


class StandIn:
    """A program in the interpreter's place; $out is the job's folder, $whole that of a real training's files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        for name, data in trained().items():
            (folder / name).write_bytes(data)
        self.folder, self._monkeypatch = folder, monkeypatch
        self.better()

    def shell(self, lines: str) -> None:
        program = self.folder / "program"
        program.write_text(f'#!/bin/sh\nout="$(dirname "$3")"\nwhole="{self.folder}"\n{lines}\n')
        program.chmod(0o755)
        self._monkeypatch.setattr(sys, "executable", str(program))

    def better(self, *, promote: bool = True) -> None:
        """A training that the gate promotes, or refuses."""
        report = Report(promote, "better" if promote else "worse", {"gain": 0.5}, 7, 100, {"loss": 1.0}, 2.0)
        (self.folder / REPORT_FILE).write_bytes(msgspec.json.encode(report))
        self.shell(f'cp "$whole"/*.bin "$whole"/*.json "$out" && cp "$whole/{REPORT_FILE}" "$out/{REPORT_FILE}"')
