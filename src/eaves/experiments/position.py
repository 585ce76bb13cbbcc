"""Where a run stands, on disk: begun, saved, restored."""

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from eaves.core.state import State
from eaves.errors import ConfigError, StateError
from eaves.experiments.build import Job
from eaves.experiments.config import located
from eaves.experiments.identity import (
    Facts,
    differences,
    identity_of,
    notices,
    read_identity,
    settings_changed,
    write_identity,
)
from eaves.experiments.record import RunRecord, read_record
from eaves.runtime.checkpoint import discard_checkpoint, load_checkpoint, save_checkpoint
from eaves.runtime.files import write_atomically
from eaves.runtime.meters import Totals
from eaves.runtime.sealed import sealed_text
from eaves.runtime.traffic import Snapshot

_ENROLLED = {"run", "session"}
_log = logging.getLogger(__name__)


@final
@dataclass
class Position:
    """Where a run stands: a phase, the steps taken in it, and what it has cost."""

    phase: str
    steps: int
    totals: Totals
    stored: int = 0
    enrolled: dict[str, str] = field(default_factory=dict)
    """Over a network: the run's name, and the cloud's session."""
    identity: str = field(default="", compare=False)
    """SHA-256 of the fingerprint in the folder of the run."""


def save(job: Job, position: Position, snapshot: Snapshot) -> None:
    """Write a checkpoint; raises :class:`StorageError`, with the last one intact."""
    method = job.method
    states: dict[str, State] = {"edge": snapshot.edge or method.edge.state()}
    if method.cloud is not None:
        states["cloud"] = snapshot.cloud or method.cloud.state()
    facts: dict[str, Any] = {
        "phase": position.phase,
        "steps": snapshot.steps,
        "totals": snapshot.totals.as_json(),
        "config_hash": job.config.hash(),
        "stored": position.stored,
        "enrolled": position.enrolled,
        "identity": position.identity or None,
    }
    save_checkpoint(job.config.out / "checkpoint", snapshot.steps, states, facts)


def begin(job: Job, identity: Facts | None = None) -> Position:
    """Make a folder ready for a new run; nothing of an earlier one is left that could be mixed up.

    ``identity`` is the fingerprint of the run, made here where it is not given.
    """
    out = job.config.out
    discard_checkpoint(out / "checkpoint")
    (out / "record.json").unlink(missing_ok=True)
    shutil.rmtree(out / "bundle", ignore_errors=True)
    sha256 = write_identity(out, identity or fingerprint(job))
    write_atomically(out / "config.toml", sealed_text(located(job.config).to_toml()))
    return Position("", 0, Totals(), identity=sha256)


def fingerprint(job: Job, *, kind: str = "train", session: str = "") -> Facts:
    """Return what a run is (see :mod:`eaves.experiments.identity`)."""
    return identity_of(job.config, job.dataset, job.net, kind=kind, session=session)


def begun(out: Path) -> bool:
    """Return whether a run in ``out`` has written a checkpoint."""
    return (out / "checkpoint" / "checkpoint.json").exists()


def expect_vacant(out: Path) -> None:
    """Refuse a folder that holds a run, which would be lost.

    Raises:
        ConfigError: it does; the message says how to go on with it, or to replace it.
    """
    record = read_record(out)
    if record is not None and record.complete:
        raise ConfigError(
            f"{out} holds a finished run ({record.method}, {record.net} on {record.data}); train "
            "again with --overwrite, which replaces it, or choose another --out"
        )
    if begun(out):
        raise ConfigError(
            f"{out} holds an interrupted run; go on with --resume {out}, start over with "
            "--overwrite, or choose another --out"
        )
    if (out / "record.json").exists() or (out / "bundle" / "manifest.json").exists():
        raise ConfigError(
            f"{out} holds a record or a bundle; replace it with --overwrite, or choose another "
            "--out"
        )


def finished_as(job: Job, identity: Facts) -> RunRecord | None:
    """Return the record in the folder of ``job``, if it is of a complete run of this very kind.

    Raises:
        StateError: it is, and since then the data or the net have changed.
    """
    out, record = job.config.out, read_record(job.config.out)
    if record is None or not record.complete or record.config_hash != job.config.hash():
        return None
    if record.identity is None:
        _log.warning("%s", _unknown(out))
        return record
    before = read_identity(out, str(record.identity.get("sha256")))
    if settings_changed(before, identity):
        return None
    if changed := differences(before, identity):
        raise StateError(
            f"the run in {out} is finished, and since then {'; '.join(changed)}. It has learnt "
            "nothing of that: train again with --overwrite, or into another --out"
        )
    return record


def forget(job: Job) -> None:
    """Remove the checkpoint of a run that is complete: it holds the key of the noise, if any."""
    shutil.rmtree(job.config.out / "checkpoint", ignore_errors=True)


def restore(job: Job, identity: Facts | None = None) -> Position:
    """Load the last checkpoint into the halves and return where it stands, or begin.

    Raises:
        ConfigError: a finished run is there, without a checkpoint.
        StateError: the checkpoint is damaged, of another configuration, or began with other data or
            another net; the message names what has changed.
    """
    found, out = load_checkpoint(job.config.out / "checkpoint"), job.config.out
    identity = identity or fingerprint(job)
    if found is None:
        record = read_record(out)
        if (record is not None and record.complete) or (out / "bundle" / "manifest.json").exists():
            expect_vacant(out)
        return begin(job, identity)
    states, facts = found
    sha256 = _expect_same(job, facts, identity)
    try:
        position = _position(facts)
        position.identity = sha256
        job.method.edge.load_state(states["edge"])
        if job.method.cloud is not None:
            job.method.cloud.load_state(states["cloud"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the checkpoint in {out} is damaged ({error!r}); --overwrite starts again"
        ) from error
    write_atomically(out / "config.toml", sealed_text(located(job.config).to_toml()))
    return position


def _expect_same(job: Job, facts: dict[str, Any], identity: Facts) -> str:
    """Raise where a checkpoint is of another run; return the SHA-256 of the fingerprint."""
    out, sha256 = job.config.out, facts.get("identity")
    if "terms" in facts:
        raise StateError(f"{out} holds the checkpoint of a cloud; choose another --out")
    before = None if sha256 is None else read_identity(out, str(sha256))
    unlike = [] if before is None else settings_changed(before, identity)
    if unlike or facts.get("config_hash") != job.config.hash():
        what = f" ({'; '.join(unlike)})" if unlike else ""
        raise StateError(
            f"the checkpoint in {out} is of another configuration or version{what}; "
            "resume with the flags of its config.toml, or choose another --out"
        )
    if before is None:
        _log.warning("%s", _unknown(out))
        return write_identity(out, identity)
    if changed := differences(before, identity):
        raise StateError(
            f"the run in {out} cannot go on as it began: {'; '.join(changed)}. Put back what it "
            "began with, start over with --overwrite, or choose another --out"
        )
    if others := notices(before, identity):
        words = "the run in %s goes on with other versions (%s): the last bits of its weights may"
        _log.warning(f"{words} differ from those of an uninterrupted run", out, "; ".join(others))
    return str(sha256)


def _unknown(out: Path) -> str:
    return (
        f"the run in {out} is of an older Eaves, which did not note its data and net: whether they "
        "have changed since cannot be told"
    )


def _position(facts: dict[str, Any]) -> Position:
    position = Position(
        str(facts["phase"]),
        facts["steps"],
        Totals.from_json(facts["totals"]),
        facts["stored"],
        dict(facts["enrolled"]),
    )
    if not all(type(n) is int and n >= 0 for n in (position.steps, position.stored)):
        raise ValueError(f"it stands at {position.steps!r}, {position.stored!r}")
    names = position.enrolled
    if names and not (set(names) == _ENROLLED and all(isinstance(n, str) for n in names.values())):
        raise TypeError(f"it is enrolled as {names}")
    return position
