"""A training's child process: started at low priority with a job file, looked after, and its files taken when it has ended.

`more` stands in its environment besides ours.

child = Child(job); ...child.ended...; report = child.report(); files = child.files(); child.clean()
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import msgspec

from freshet.child_process import environment, module
from freshet.learning.job import Job, Report
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, OPTIMISER_FILE, REPORT_FILE
from storage.files import write_file
from storage.models import Damaged

ERROR_BYTES_MAX: Final = 2000
_RAISED: Final = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt|Full|Damaged)\b")
UNUSABLE: Final = (OSError, ValueError, LookupError, msgspec.MsgspecError, Damaged)
"""What unreadable files of a candidate raise: a failed training, never the end of who asked for it."""


class Child:
    """One running training. Its folder, `job.out`, is made here and goes with `clean`.

    Raises OSError, `DiskFull` among them, when it cannot be started: then there is no folder either.
    """

    def __init__(self, job: Job, more: Mapping[str, str] | None = None) -> None:
        self.job, self._out = job, Path(job.out)
        self._out.mkdir(parents=True)
        with contextlib.ExitStack() as undone:
            undone.callback(shutil.rmtree, self._out, ignore_errors=True)
            write_file(self._out / "job.json", msgspec.json.encode(job), durable=False)
            self._errors = undone.enter_context((self._out / "errors.txt").open("w+b"))
            self._process = subprocess.Popen(
                module("freshet.learning.learn", str(self._out / "job.json")), stdout=subprocess.DEVNULL, stderr=self._errors,
                env=environment(threads=job.threads, more=more),
            )  # fmt: skip
            undone.pop_all()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, at most this long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def report(self) -> Report:
        """What it found; may be asked again. Raises ChildProcessError with its last words when it did not get so far."""
        path = self._out / REPORT_FILE
        if self._process.returncode != 0 or not path.exists():
            raise ChildProcessError(f"the training process ended with {self._process.returncode}: {_tail(self._errors)}")
        return msgspec.json.decode(path.read_bytes(), type=Report)

    def files(self) -> dict[str, bytes]:
        """The candidate's."""
        names = (MODEL_FILE, BLEND_FILE, COUNTING_FILE, OPTIMISER_FILE, LINEAR_FILE)
        return {name: (self._out / name).read_bytes() for name in names}

    def kill(self) -> None:
        """End it: nothing of it is used."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def clean(self) -> None:
        """Remove its folder, once it has ended."""
        self._errors.close()
        shutil.rmtree(self._out, ignore_errors=True)


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - ERROR_BYTES_MAX))
    text = errors.read().decode("utf-8", "replace").strip().splitlines()
    raised = [line for line in text if _RAISED.match(line)]  # an abort on the way out may say more, and less, after it
    return (raised or text or ["it said nothing"])[-1]
