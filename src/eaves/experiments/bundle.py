"""A trained split net on disk: a manifest and weights, the edge's half and the cloud's apart.

::

    bundle/manifest.json            what it is, and the SHA-256 of each file
    bundle/net.py                   code of a net of the user's own, for both
    bundle/edge/weights.safetensors    for the device, and for no other machine
    bundle/cloud/weights.safetensors   for the cloud, and for no other machine

A manifest goes to both machines: no path, user or host of the one that wrote it is in it. The code
of a net is run when a user opens the bundle on this machine, and is never sent or received.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from eaves.data.source import Interface
from eaves.errors import ConfigError, StateError, StorageError
from eaves.experiments.config import net_name, without_places
from eaves.experiments.record import RunRecord
from eaves.runtime.checkpoint import read_tensors, tensors_to_bytes
from eaves.runtime.files import expect_format, replace_folder, spare, write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

CODE: Final = "net.py"
_FORMAT = 1
ON_BATCH = "depends_on_batch"
"""Where a manifest keeps which parts answer an example by the others in its batch."""

Weights = Mapping[str, Tensor]


def write_bundle(
    folder: Path,
    modules: Mapping[str, Mapping[str, nn.Module]],
    facts: Mapping[str, Any],
    *,
    session: str = "",
    code: bytes | None = None,
) -> None:
    """Replace the bundle in ``folder`` by the modules of each side (``edge``, ``cloud``).

    ``session`` is the name that halves trained together share; by default made from the weights.
    ``code`` is the file of a net of the user's own.

    Raises:
        StorageError: the disk is full or refuses; what was there before is intact.
    """
    weights = {side: nn.ModuleDict(dict(parts)).state_dict() for side, parts in modules.items()}
    write_weights(folder, weights, facts, session=session, code=code)


def write_weights(
    folder: Path,
    weights: Mapping[str, Weights],
    facts: Mapping[str, Any],
    *,
    session: str = "",
    code: bytes | None = None,
) -> None:
    """Replace the bundle in ``folder`` by the weights of each side; see :func:`write_bundle`.

    Whoever reads, and a crash, finds the old bundle or the new one whole.
    """
    draft, digests = folder.with_name(f".{folder.name}.draft"), {}
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for side, tensors in weights.items():
            if tensors:
                content = tensors_to_bytes(tensors)
                write_atomically(draft / side / "weights.safetensors", content)
                digests[side] = hashlib.sha256(content).hexdigest()
        together = hashlib.sha256("".join(sorted(digests.values())).encode()).hexdigest()[:16]
        manifest = {
            "format": _FORMAT,
            **facts,
            "session": session or together,
            "sha256": digests,
        }
        if code is not None:
            write_atomically(draft / CODE, code)
            manifest["net_sha256"] = hashlib.sha256(code).hexdigest()
        write_atomically(draft / "manifest.json", sealed_json(manifest))
        replace_folder(draft, folder)
    except StorageError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def bundle_in(folder: Path) -> Path:
    """Return where the bundle of ``folder``, a bundle or the folder of a run, lies."""
    if (folder / "manifest.json").exists():
        return folder
    bundle = folder / "bundle"
    before = spare(bundle)
    return before if before.exists() and not bundle.exists() else bundle


def code_in(folder: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Return the file of the net in a bundle; None where it has none, being of no use.

    Only this file is ever run, and only if it is the one that was written: no path in a manifest
    is followed.

    Raises:
        StateError: the file is missing, or another one.
    """
    sha256 = manifest.get("net_sha256")
    if sha256 is None:
        return None
    path = folder / CODE
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StateError(
            f"cannot read {path}, the code of this bundle's net: {error.strerror}; copy it from "
            "where the bundle was made, beside manifest.json"
        ) from error
    if found != sha256:
        raise StateError(
            f"{path} is not the code that this bundle was made with, and is not run: expected "
            f"SHA-256 {sha256}, found {found}; copy it from where the bundle was made"
        )
    return path


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
        "net": net_name(record.net),
        "config": without_places(record.config),
        "input_shape": interface.input_shape,
        "classes": interface.classes,
        "exit": record.config["exit"],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle.

    Raises:
        StateError: there is none, it is damaged, or a newer Eaves has written it.
    """
    path = folder / "manifest.json"
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{folder} is no bundle: cannot read {path.name} ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    expect_format(found, _FORMAT, place=folder, kind="a bundle")  # whatever checksums mean there
    try:
        return dict(unsealed_json(content))
    except ValueError as error:
        raise StateError(f"{path} is damaged: {error}") from error


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
