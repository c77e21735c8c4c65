"""A model from a file becomes the live version of a folder: read, checked, stored, embedded, promoted, on record.

    version = adopt(service, Path("model.bin"), now_ms=now_ms)

What `python -m bench.quality` leaves is such a file. It starts alone: no weights of the live counts were fitted beside it, so the neural
source has all of the weight until a training has found better ones. The trainings that follow start warm from it, in its configuration.
"""

import hashlib
import logging
from pathlib import Path
from typing import Final

import numpy as np

from encoders.blend import Blend
from encoders.model import CheckpointError, Model
from freshet.service import Service
from freshet.version_files import BLEND_FILE, COUNTING_FILE, MODEL_FILE
from serving.lookup import UNFITTED
from serving.sources import SOURCES
from storage.models import Version

log = logging.getLogger(__name__)
FILE: Final = "file"
"""The kind of such a decision."""
NAME_DIGITS: Final = 12


def adopt(service: Service, path: Path, *, now_ms: int) -> str:
    """Make the file's model live, and return its version's name. In order: 1. check, 2. store, 3. embed every item, 4. promote, 5. record.

    A file that was adopted before changes nothing: what has been learned since, or was rolled back to, stays live. Raises `CheckpointError`
    for what is no whole model of this format, or is not finite, `DiskFull`, OSError: then what was live still is.
    """
    blob = path.read_bytes()
    checked(blob, path)
    name = f"{FILE}-{hashlib.sha256(blob).hexdigest()[:NAME_DIGITS]}"
    if any(decision.get("version") == name for decision in service.registry.decisions()):
        log.info("model_known version=%s path=%s", name, path)
        return name
    version = next((stored for stored in service.registry.versions() if stored.name == name), None)  # a start that was killed in between
    if version is None:
        parent = service.current.live.version if service.current else None
        version = Version(name, service.next_generation(), parent, now_ms, as_of_number=-1, metrics={})
        files = {MODEL_FILE: blob, BLEND_FILE: neural_alone().to_json().encode(), COUNTING_FILE: _counting().to_json().encode()}
        service.registry.put(version, files)
    loaded, row = service.load(name), 0
    while row < len(service.view.catalogue):
        row = service.build(loaded, now_ms=now_ms, start=row)
    service.promote(version, loaded)
    service.registry.record(
        {"version": name, "kind": FILE, "promoted": True, "reason": f"given as {path.name} at the start", "numbers": {}, "at_ms": now_ms}
    )
    return name


def checked(blob: bytes, path: Path) -> Model:
    """The model of these bytes. Raises `CheckpointError` naming the file."""
    try:
        return Model.from_bytes(blob)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; give a model file that `python -m bench.quality` or a registry wrote") from error


def neural_alone() -> Blend:
    """All weight on the neural source."""
    return Blend(SOURCES, np.array([float(source == "neural") for source in SOURCES]))


def _counting() -> Blend:
    return Blend(SOURCES[1:], UNFITTED.weights[1:])
