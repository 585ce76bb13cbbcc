"""From a configuration to a record: ``run`` yields progress and, at last, the record."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import nn

from eaves.core.rates import Rate
from eaves.core.state import State
from eaves.errors import StateError
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import write_bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.evaluate import evaluate
from eaves.experiments.phases import Phase, phases_of
from eaves.experiments.record import RunRecord, record_of
from eaves.runtime.checkpoint import load_checkpoint, save_checkpoint
from eaves.runtime.files import write_atomically
from eaves.runtime.meters import Totals
from eaves.runtime.store import Store
from eaves.runtime.traffic import Progress, Snapshot


@final
@dataclass(frozen=True)
class PhaseProgress:
    """How far one phase of a run is.

    ``steps`` are those the whole phase takes, ``first_step`` is where this process took it up.
    """

    phase: str
    steps: int
    epoch_steps: int
    first_step: int
    progress: Progress


@final
@dataclass
class _Position:
    """Where a run stands: a phase, the steps taken in it, and what it has cost."""

    phase: str
    steps: int
    totals: Totals
    stored: int = 0


def run(
    config: TrainConfig,
    *,
    net: nn.Module | None = None,
    stop: threading.Event | None = None,
    resume: bool = False,
) -> Iterator[PhaseProgress | RunRecord]:
    """Train as ``config`` says; yield progress several times a second, then the record.

    Leaves ``config.toml``, ``checkpoint/``, ``record.json`` and ``bundle/`` in ``config.out``.
    ``net`` is a net of your own, used instead of the one that ``config.net`` names. With ``resume``
    the run goes on from its checkpoint and ends with the weights of an uninterrupted one, bit for
    bit on the same machine and version. When ``stop`` is set, the run writes a checkpoint at the
    next step and ends with a record that is not ``complete``.

    Raises:
        ConfigError: a name or combination that cannot work.
        DataError: the data set is missing or damaged.
        DivergedError: the loss became NaN; the last checkpoint is kept.
        StateError: the checkpoint to resume from is damaged or of another configuration.
        StorageError: the disk is full; the last checkpoint is intact.
    """
    stop = stop or threading.Event()
    if net is not None:
        config = replace(config, net=f"own:{type(net).__name__}")
    torch.set_num_threads(config.threads)
    job = build_job(config, net)
    position = _restore(job) if resume else _begin(job)
    with _store(job, position) as store:
        phases = phases_of(job, store)
        names = [phase.name for phase in phases]
        for phase in phases[names.index(position.phase) if position.phase else 0 :]:
            if phase.name != position.phase:
                position = _Position(phase.name, 0, position.totals)
            yield from _run_phase(job, phase, position, store, stop)
            if position.steps < phase.steps:
                break
    complete = position.phase == names[-1] and position.steps >= phases[-1].steps
    yield _finish(job, position, _steps_taken(phases, position), complete=complete)


@contextmanager
def _store(job: Job, position: _Position) -> Iterator[Store | None]:
    if job.config.send != "once":
        yield None
        return
    with closing(Store(job.config.out / "store", keep=position.stored)) as store:
        yield store


def _run_phase(
    job: Job, phase: Phase, position: _Position, store: Store | None, stop: threading.Event
) -> Iterator[PhaseProgress]:
    first_step = position.steps
    for event in phase.start(first_step, position.totals, stop):
        if isinstance(event, Snapshot):
            position.steps = event.steps
            _save(job, phase.name, event, store)
        else:
            yield PhaseProgress(phase.name, phase.steps, job.epoch_steps, first_step, event)


def _save(job: Job, phase: str, snapshot: Snapshot, store: Store | None) -> None:
    method = job.method
    states: dict[str, State] = {"edge": snapshot.edge or method.edge.state()}
    if method.cloud is not None:
        states["cloud"] = snapshot.cloud or method.cloud.state()
    facts: dict[str, Any] = {
        "phase": phase,
        "steps": snapshot.steps,
        "totals": snapshot.totals.as_json(),
        "config_hash": job.config.hash(),
        "stored": 0,
    }
    if store is not None:
        store.flush()
        # In "send" every step stores one upload, and those after the snapshot are sent again.
        facts["stored"] = snapshot.steps if phase == "send" else len(store)
    save_checkpoint(job.config.out / "checkpoint", snapshot.steps, states, facts)


def _begin(job: Job) -> _Position:
    write_atomically(job.config.out / "config.toml", job.config.to_toml().encode())
    for old in ("checkpoint/checkpoint.json", "record.json"):
        (job.config.out / old).unlink(missing_ok=True)
    return _Position("", 0, Totals())


def _restore(job: Job) -> _Position:
    found = load_checkpoint(job.config.out / "checkpoint")
    if found is None:
        return _begin(job)
    states, facts = found
    if facts.get("config_hash") != job.config.hash():
        raise StateError(
            f"the checkpoint in {job.config.out} is of another configuration or version; "
            "resume with the flags of its config.toml, or choose another --out"
        )
    job.method.edge.load_state(states["edge"])
    if job.method.cloud is not None:
        job.method.cloud.load_state(states["cloud"])
    totals = Totals.from_json(facts["totals"])
    return _Position(facts["phase"], facts["steps"], totals, facts["stored"])


def _steps_taken(phases: list[Phase], position: _Position) -> int:
    before = 0
    for phase in phases:
        if phase.name == position.phase:
            return before + position.steps
        before += phase.steps
    return before


def _finish(job: Job, position: _Position, steps: int, *, complete: bool) -> RunRecord:
    accuracy: dict[str, Rate | None] = {"cloud": None, "exit": None}
    if complete:
        accuracy = evaluate(job.method, job.dataset.test, job.wire.codec)
    record = record_of(job, position.totals, steps, accuracy, complete=complete)
    if complete:
        facts = {
            "input_shape": job.dataset.train.input_shape,
            "classes": job.dataset.classes,
            "exit": job.config.exit,
        }
        write_bundle(job.config.out / "bundle", job.method, record, facts)
    content = json.dumps(record.as_json(), indent=1, allow_nan=False).encode()
    write_atomically(job.config.out / "record.json", content)
    return record
