"""A process that stops itself at a named point does nothing beyond it, whichever of its threads comes there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from bench.services import wait_until

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, signal, threading
from bench.faults.points import ending_at
fault = ending_at("here", 2, signal.SIGSTOP)
def work():
    fault("here"), fault("there"), fault("here"), os.write(1, b"beyond")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
TRIES = 20


def test_whoever_stops_at_a_point_has_done_nothing_beyond_it() -> None:
    for _ in range(TRIES):
        child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        stat = Path(f"/proc/{child.pid}/stat")
        try:
            wait_until(lambda stat=stat: stat.read_text().rsplit(")", 1)[1].split()[0] in "TZ", seconds=30)  # type: ignore[misc]
            os.set_blocking(child.stdout.fileno(), False)
            assert child.stdout.read() is None, "it stands still, and has said nothing"
            os.set_blocking(child.stdout.fileno(), True)
            child.send_signal(signal.SIGCONT)
            assert child.stdout.read() == b"beyond" and child.wait() == 0
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
