"""What is compiled is compiled before anybody waits for it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, pathlib, sys

from numba.core.dispatcher import Dispatcher

from encoders.config import ModelConfig
from encoders.model import Model
from freshet.learning.adopting import adopt
from freshet.rehearsal import rehearse
from tests.freshet.sites import NOW_MS, site


def compiled():
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in {"encoders", "serving", "storage", "stream"}]
    loops = [loop for module in ours for loop in vars(module).values() if isinstance(loop, Dispatcher)]
    return {f"{loop.__module__}.{loop.__name__}": [str(kinds) for kinds in loop.signatures] for loop in loops}


rehearse()
before, folder = compiled(), pathlib.Path(sys.argv[1])
with site(folder / "data") as service:
    (folder / "model.bin").write_bytes(Model.new(ModelConfig(), service.view.catalogue.ids, seed=1).to_bytes())
    adopt(service, folder / "model.bin", now_ms=NOW_MS)
    for user in range(20):
        service.lookup.recommend(f"u{user}", now_ms=NOW_MS)
    service.lookup.similar("i1", now_ms=NOW_MS)
    service.engine.append_events([b'{"user_id":"u1","action":"like","item_id":"i2","ts_ms":1709251200000}'], now_ms=NOW_MS)
    service.step(now_ms=NOW_MS)
    service.refresh(now_ms=NOW_MS)
    used = compiled()
print(json.dumps([before, used]))
"""


def test_after_a_rehearsal_nothing_is_left_to_compile(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    before, used = json.loads(done.stdout)
    assert sum(map(len, before.values())) >= 20
    assert used == before
