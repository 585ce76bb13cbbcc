"""Runs and their audits as they lie in folders, for a page about them. Imports no torch."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from eaves.errors import ConfigError, StateError
from eaves.experiments.auditconfig import AuditConfig
from eaves.experiments.config import TrainConfig
from eaves.runtime.files import expect_format
from eaves.runtime.sealed import unsealed_json

Record = Mapping[str, Any]
Images = np.ndarray[Any, np.dtype[np.uint8]]

PLACES = ("data_root", "out")
"""Settings that are of one machine: no part of what is needed to repeat a run."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one folder holds. ``number`` is what the page calls it by."""

    number: int
    folder: Path
    record: Record
    audit: Record | None
    gallery: Mapping[str, Images]
    """Images (N, C, H, W) uint8 and classes (N,), by the names that the audit gave them."""

    @property
    def name(self) -> str:
        """The name of the folder, without where it is."""
        return self.folder.resolve().name


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in ``folders``: those that hold a record, and those of the folders in them.

    Raises:
        ConfigError: no folders, or one that does not exist.
        StateError: a folder without a run, or with one that is damaged.
    """
    if not folders:
        raise ConfigError("name the folders of one run or more, as in: eaves report runs/latest")
    found = dict.fromkeys(run for folder in folders for run in _places(folder))
    return [_read_run(number, folder) for number, folder in enumerate(found, start=1)]


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders of the runs in one."""
    if not folder.is_dir():
        raise ConfigError(f"expected the folder of a run, got {folder}, which is none")
    places = [p for p in (folder, *sorted(folder.iterdir())) if (p / "record.json").is_file()]
    if not places:
        raise StateError(
            f"there is no run in {folder}: no record.json, as `eaves train` leaves it, neither "
            "there nor in the folders in it"
        )
    yield from places


def _read_run(number: int, folder: Path) -> Run:
    path = folder / "audit" / "audit.json"
    audit = _read_json(path) if path.exists() else None
    if audit is not None:
        _expect_same(folder, audit)
    return Run(
        number=number,
        folder=folder,
        record=_read_record(folder / "record.json"),
        audit=audit,
        gallery={} if audit is None else _read_gallery(path.with_name("gallery.safetensors")),
    )


def _read_record(path: Path) -> Record:
    record = _read_json(path)
    expect_format(record.get("format", 1), 1, place=path, kind="a record")
    return record


def _read_json(path: Path) -> Record:
    try:
        found = unsealed_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise StateError(f"{path} is damaged: expected an object, got {type(found).__name__}")
    return found


def _expect_same(folder: Path, audit: Record) -> None:
    """Raise a :class:`StateError` where the bundle was trained again since it was audited."""
    manifest = folder / "bundle" / "manifest.json"
    if not manifest.exists():
        return
    subject = audit.get("subject")
    session = subject.get("session") if isinstance(subject, dict) else None
    if _read_json(manifest).get("session") != session:
        raise StateError(
            f"{folder / 'audit'} is not of the bundle that is there now: run `eaves audit {folder}`"
        )


def _read_gallery(path: Path) -> dict[str, Images]:
    if not path.exists():
        return {}
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} is damaged: {error}") from error


def train_command(config: Record) -> str:
    """Return the command that trains as ``config`` says, as far as it is not the default.

    >>> train_command({"method": "split", "epochs": 10, "privacy": {"private": "Male,Young"}})
    'eaves train --method split --private Male,Young'
    """
    return _command(["eaves", "train"], _flat(config), _flat(asdict(TrainConfig())))


def audit_command(settings: Record) -> str:
    """Return the command that audits as ``settings`` say, for a run in the folder RUN.

    >>> audit_command({"attacks": "all", "effort": 1.0, "max_attack": None, "out": "here"})
    'eaves audit RUN --attacks all'
    """
    return _command(["eaves", "audit", "RUN"], settings, asdict(AuditConfig()))


def _flat(config: Record) -> dict[str, Any]:
    """Return settings with those of tables beside the others, as they are on the command line."""
    tables = [value for value in config.values() if isinstance(value, Mapping)]
    flat = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    return {**flat, **{k: v for table in tables for k, v in table.items()}}


def _command(start: list[str], settings: Record, default: Record) -> str:
    parts = list(start)
    for name, value in settings.items():
        if value is None or name in PLACES or value == default.get(name):
            continue
        if name in ("net", "start"):  # where it lies is of one machine, too
            value = Path(str(value)).name
        parts += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(parts)
