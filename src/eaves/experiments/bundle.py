"""A trained split net on disk: a manifest and weights, the edge's half and the cloud's apart.

::

    bundle/manifest.json            what it is, and the SHA-256 of each weights file
    bundle/edge/weights.safetensors    for the device, and for nobody else
    bundle/cloud/weights.safetensors   for the cloud, and for nobody else
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eaves.data.source import Interface
from eaves.errors import ConfigError, StateError
from eaves.experiments.record import RunRecord
from eaves.runtime.checkpoint import read_tensors, tensors_to_bytes
from eaves.runtime.files import write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

_FORMAT = 1
ON_BATCH = "depends_on_batch"
"""Where a manifest keeps which parts answer an example by the others in its batch."""


def write_bundle(
    folder: Path,
    modules: Mapping[str, Mapping[str, nn.Module]],
    facts: Mapping[str, Any],
    *,
    session: str = "",
) -> None:
    """Replace the bundle in ``folder`` by the modules of each side (``edge``, ``cloud``).

    ``session`` is the name that halves trained together share; by default made from the weights.

    Raises:
        StorageError: the disk is full or refuses.
    """
    digests: dict[str, str] = {}
    shutil.rmtree(folder, ignore_errors=True)
    for side, parts in modules.items():
        if not parts:
            continue
        content = tensors_to_bytes(nn.ModuleDict(dict(parts)).state_dict())
        write_atomically(folder / side / "weights.safetensors", content)
        digests[side] = hashlib.sha256(content).hexdigest()
    together = hashlib.sha256("".join(sorted(digests.values())).encode()).hexdigest()[:16]
    manifest = {
        "format": _FORMAT,
        **facts,
        "session": session or together,
        "sha256": digests,
    }
    write_atomically(folder / "manifest.json", sealed_json(manifest))


def facts_of(record: RunRecord, interface: Interface) -> dict[str, Any]:
    """Return what a manifest says of a run and of what its net is made for."""
    described = (
        "method",
        "net",
        "cut",
        "data",
        "codec",
        "config",
        "versions",
        "accuracy",
        "privacy",
    )
    return {
        **{name: getattr(record, name) for name in described},
        "input_shape": interface.input_shape,
        "classes": interface.classes,
        "exit": record.config["exit"],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle; raises :class:`StateError` where there is none."""
    path = folder / "manifest.json"
    try:
        manifest = unsealed_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{folder} is no bundle: cannot read {path.name} ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != _FORMAT:
        raise StateError(f"{folder}: expected a bundle of format {_FORMAT}, got {found}")
    return dict(manifest)


def refuse_dependent(folder: Path) -> None:
    """Raise a :class:`ConfigError` where answers of a bundle depend on what is asked together."""
    found = read_manifest(folder).get(ON_BATCH)
    if isinstance(found, list) and found:
        raise ConfigError(
            f"{folder} cannot answer one example at a time as it was measured: {found[0]}. Give "
            "its normalisations running statistics (track_running_stats=True), and train it again"
        )


def read_weights(folder: Path, side: str) -> dict[str, Tensor]:
    """Return the weights of ``side`` (``edge`` or ``cloud``), checked against the manifest."""
    digests = read_manifest(folder).get("sha256")
    if not isinstance(digests, dict):
        raise StateError(f"the manifest of {folder} is damaged: it has no digests")
    if side not in digests:
        raise StateError(f"{folder} holds no weights for the {side}, only {sorted(digests)}")
    return read_tensors(folder / side / "weights.safetensors", digests[side])
