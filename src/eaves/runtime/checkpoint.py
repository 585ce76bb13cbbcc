"""States of learners on disk: tensors as safetensors, facts as JSON, replaced atomically.

``checkpoint.json`` names the tensor files that belong to it with their SHA-256, and is written
last: a crash at any moment leaves the previous checkpoint whole.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from eaves.core.state import State
from eaves.errors import StateError
from eaves.runtime.files import expect_format, write_atomically
from eaves.runtime.sealed import sealed_json, unsealed_json

_INDEX = "checkpoint.json"
_FORMAT = 1
_BEGUN = "begun"  # an empty file: there has been an index
_MODE = 0o600  # the state of an edge that hides holds the key of its noise


def save_checkpoint(
    folder: Path, steps: int, states: Mapping[str, State], facts: Mapping[str, Any]
) -> None:
    """Replace the checkpoint in ``folder`` by ``states``, by the name of their learner.

    Raises:
        StorageError: the disk is full or refuses; the previous checkpoint is intact.
    """
    entries = {}
    for name, state in states.items():
        content = tensors_to_bytes(state.tensors)
        digest = hashlib.sha256(content).hexdigest()
        # Named by content: steps alone repeat from phase to phase, and the previous checkpoint
        # must not be overwritten before the index is.
        file = f"{name}-{digest[:16]}.safetensors"
        write_atomically(folder / file, content, mode=_MODE)
        entries[name] = {"file": file, "sha256": digest, "facts": state.facts}
    index = {"format": _FORMAT, "steps": steps, "states": entries, "facts": dict(facts)}
    write_atomically(folder / _INDEX, sealed_json(index), mode=_MODE)
    if not (folder / _BEGUN).exists():
        write_atomically(folder / _BEGUN, b"", mode=_MODE)
    current = {entry["file"] for entry in entries.values()}
    for old in [*folder.glob("*-*.safetensors"), *folder.glob(".*.draft")]:
        if old.name not in current:
            old.unlink()


def discard_checkpoint(folder: Path) -> None:
    """Begin without what was saved in ``folder``."""
    for name in (_BEGUN, _INDEX):  # in this order: a crash in between leaves the checkpoint whole
        (folder / name).unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, State], dict[str, Any]] | None:
    """Return the states and facts that were saved last; None where nothing was saved yet.

    Raises:
        StateError: the checkpoint is damaged (the message names the file), or a newer Eaves has
            written it.
    """
    path = folder / _INDEX
    if not path.exists():
        if (folder / _BEGUN).exists():
            raise StateError(
                f"{path} is gone, which is the index of the checkpoint: a damaged disk or a loss "
                f"of power does that. Bring {folder} back from a copy, or remove it to start again"
            )
        return None
    try:
        content = path.read_bytes()
        # First of all: another format may have another checksum.
        expect_format(json.loads(content)["format"], _FORMAT, place=path, kind="a checkpoint")
        index = unsealed_json(content)
        states = {
            name: State(read_tensors(folder / entry["file"], entry["sha256"]), entry["facts"])
            for name, entry in index["states"].items()
        }
        facts = [index["facts"], *(state.facts for state in states.values())]
        if not all(isinstance(found, dict) for found in facts):
            raise TypeError("expected facts by their names")
        return states, index["facts"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StateError(f"{path} is damaged ({error!r}); remove it to start again") from error


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return ``tensors`` in the safetensors format."""
    # Clones, because the format refuses tensors that share memory, as tied weights do.
    dense = torch.contiguous_format
    return save({k: v.detach().cpu().clone(memory_format=dense) for k, v in tensors.items()})


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file and check its digest.

    Raises:
        StateError: the file is missing, damaged or not the one that was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise StateError(f"{path} is damaged: expected SHA-256 {sha256}, found {found}")
    try:
        return load(content)
    except SafetensorError as error:
        raise StateError(f"{path} is no safetensors file: {error}") from error
