"""A trained split net on disk: a manifest and weights, the edge's half and the cloud's apart.

::

    bundle/manifest.json            what it is, and the SHA-256 of each weights file
    bundle/edge/weights.safetensors    for the device, and for nobody else
    bundle/cloud/weights.safetensors   for the cloud, and for nobody else
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eaves.errors import StateError
from eaves.experiments.record import RunRecord
from eaves.methods.setup import Method
from eaves.runtime.checkpoint import read_tensors, tensors_to_bytes
from eaves.runtime.files import write_atomically

_FORMAT = 1


def write_bundle(folder: Path, method: Method, record: RunRecord, facts: Mapping[str, Any]) -> None:
    """Replace the bundle in ``folder``.

    ``facts`` describe the interface: input shape, classes, normalisation.

    Raises:
        StorageError: the disk is full or refuses.
    """
    sides = {"edge": method.edge_modules, "cloud": method.cloud_modules}
    digests: dict[str, str] = {}
    shutil.rmtree(folder, ignore_errors=True)
    for side, modules in sides.items():
        if not modules:
            continue
        content = tensors_to_bytes(nn.ModuleDict(dict(modules)).state_dict())
        write_atomically(folder / side / "weights.safetensors", content)
        digests[side] = hashlib.sha256(content).hexdigest()
    described = ("method", "net", "cut", "data", "codec", "config", "versions", "accuracy")
    manifest = {
        "format": _FORMAT,
        **{name: getattr(record, name) for name in described},
        **facts,
        "sha256": digests,
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle; raises :class:`StateError` where there is none."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"{folder} is no bundle: cannot read {path.name} ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != _FORMAT:
        raise StateError(f"{folder}: expected a bundle of format {_FORMAT}, got {found}")
    return dict(manifest)


def read_weights(folder: Path, side: str) -> dict[str, Tensor]:
    """Return the weights of ``side`` (``edge`` or ``cloud``), checked against the manifest."""
    digests = read_manifest(folder)["sha256"]
    if side not in digests:
        raise StateError(f"{folder} holds no weights for the {side}, only {sorted(digests)}")
    return read_tensors(folder / side / "weights.safetensors", digests[side])
