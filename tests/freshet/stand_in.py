"""A stand-in for the trainer's child of the cluster form: it leaves the files of a small real model, or fails as it is told.

says = StandIn(folder, monkeypatch); says.shell("exit 1")
"""

import shutil
import sys
from collections.abc import Callable
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


class Leaving:
    """The same for the child of an embedded server: it leaves the files of a folder, changed as it is told."""

    def __init__(self, whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._whole, self._files = whole, folder / "files"
        self.mend()
        program = folder / "program"
        program.write_text(f'#!/bin/sh\ncp "{self._files}"/*.bin "{self._files}"/*.json "$(dirname "$3")"\n')
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    def mend(self) -> None:
        """What it leaves is whole again."""
        shutil.copytree(self._whole, self._files, dirs_exist_ok=True)

    def change(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """One file is another from now on."""
        (self._files / name).write_bytes(change((self._files / name).read_bytes()))

    def refused(self) -> None:
        """The gate does not promote it."""
        report = msgspec.json.decode((self._files / REPORT_FILE).read_bytes(), type=Report)
        refused = msgspec.structs.replace(report, promote=False, reason="worse")
        (self._files / REPORT_FILE).write_bytes(msgspec.json.encode(refused))
