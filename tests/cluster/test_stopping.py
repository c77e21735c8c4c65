"""A program that started services stops them when it is told to end, so that nothing of it goes on running."""

import signal
import subprocess
import sys
from pathlib import Path

from bench.services import wait_until
from tests.cluster.installation import ROOT

BENCH = """
import signal, sys
from pathlib import Path
from bench.services import RedisServer
with RedisServer(Path(sys.argv[1])) as redis:
    print(redis.pid, flush=True)
    signal.pause()
"""


def test_what_a_bench_started_ends_with_it_on_sigterm(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", BENCH, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as bench:
        assert bench.stdout is not None
        process = Path("/proc") / bench.stdout.readline().decode().strip()
        assert process.name and process.exists()
        bench.send_signal(signal.SIGTERM)
        bench.communicate(timeout=60)
    assert bench.returncode != 0
    wait_until(lambda: not process.exists(), seconds=5)
