"""Where a run stands, on disk: begun, saved, restored."""

import shutil
from dataclasses import dataclass, field
from typing import Any, final

from eaves.core.state import State
from eaves.errors import StateError
from eaves.experiments.build import Job
from eaves.runtime.checkpoint import discard_checkpoint, load_checkpoint, save_checkpoint
from eaves.runtime.files import write_atomically
from eaves.runtime.meters import Totals
from eaves.runtime.traffic import Snapshot

_ENROLLED = {"run", "session"}


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
    }
    save_checkpoint(job.config.out / "checkpoint", snapshot.steps, states, facts)


def begin(job: Job) -> Position:
    """Make a folder ready for a new run."""
    write_atomically(job.config.out / "config.toml", job.config.to_toml().encode())
    discard_checkpoint(job.config.out / "checkpoint")
    (job.config.out / "record.json").unlink(missing_ok=True)
    return Position("", 0, Totals())


def forget(job: Job) -> None:
    """Remove the checkpoint of a run that is complete: it holds the key of the noise, if any."""
    shutil.rmtree(job.config.out / "checkpoint", ignore_errors=True)


def restore(job: Job) -> Position:
    """Load the last checkpoint into the halves and return where it stands, or begin.

    Raises:
        StateError: the checkpoint is damaged or of another configuration.
    """
    found = load_checkpoint(job.config.out / "checkpoint")
    if found is None:
        return begin(job)
    states, facts = found
    if facts.get("config_hash") != job.config.hash():
        raise StateError(
            f"the checkpoint in {job.config.out} is of another configuration or version; "
            "resume with the flags of its config.toml, or choose another --out"
        )
    try:
        position = _position(facts)
        job.method.edge.load_state(states["edge"])
        if job.method.cloud is not None:
            job.method.cloud.load_state(states["cloud"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"the checkpoint in {job.config.out} is damaged ({error!r}); --overwrite starts anew"
        ) from error
    return position


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
