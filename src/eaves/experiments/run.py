"""From a configuration to a record: ``run`` yields progress and, at last, the record."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import final

from torch import nn

from eaves.core.rates import Rate
from eaves.experiments.answering import Beside
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import facts_of, write_bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.evaluate import evaluate
from eaves.experiments.phases import Phase, phases_of
from eaves.experiments.position import Position, begin, restore, save
from eaves.experiments.record import RunRecord, record_of, write_record
from eaves.experiments.start import start
from eaves.runtime.process import set_up
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
    set_up(config.threads)
    if config.mixes and not resume:
        config.mixing.expect_secret()
    job = build_job(config, net)
    if config.siamese.start is not None and config.tunes and not resume:
        start(job, config.siamese.start)
    position = restore(job) if resume else begin(job)
    with _store(job, position) as store:
        phases = phases_of(job, store)
        names = [phase.name for phase in phases]
        for phase in phases[names.index(position.phase) if position.phase else 0 :]:
            if phase.name != position.phase:
                position = Position(phase.name, 0, position.totals)
            yield from _run_phase(job, phase, position, store, stop)
            if position.steps < phase.steps:
                break
    complete = position.phase == names[-1] and position.steps >= phases[-1].steps
    yield _finish(job, position, _steps_taken(phases, position), complete=complete)


@contextmanager
def _store(job: Job, position: Position) -> Iterator[Store | None]:
    if not job.config.sends_once:
        yield None
        return
    with closing(Store(job.config.out / "store", keep=position.stored)) as store:
        yield store


def _run_phase(
    job: Job, phase: Phase, position: Position, store: Store | None, stop: threading.Event
) -> Iterator[PhaseProgress]:
    first_step = position.steps
    for event in phase.start(first_step, position.totals, stop):
        if isinstance(event, Snapshot):
            position.steps = event.steps
            if store is not None:
                store.flush()
                # In "send" every step stores one upload; those after the snapshot are sent again.
                position.stored = event.steps if phase.name == "send" else len(store)
            save(job, position, event)
        else:
            yield PhaseProgress(phase.name, phase.steps, job.epoch_steps, first_step, event)


def _steps_taken(phases: list[Phase], position: Position) -> int:
    before = 0
    for phase in phases:
        if phase.name == position.phase:
            return before + position.steps
        before += phase.steps
    return before


def _finish(job: Job, position: Position, steps: int, *, complete: bool) -> RunRecord:
    cloud = job.method.cloud_predictor
    accuracy: dict[str, Rate | None] = {"cloud": None, "exit": None}
    if complete:
        answers = None if cloud is None else Beside(cloud)
        method, codec = job.method, job.wire.codec
        accuracy = evaluate(method.edge_predictor, answers, job.dataset.test, codec, method.shield)
    record = record_of(job, position.totals, steps, accuracy, complete=complete)
    if complete:
        sides = {"edge": job.method.edge_modules, "cloud": job.method.cloud_modules}
        write_bundle(job.config.out / "bundle", sides, facts_of(record, job.dataset.interface))
    write_record(job.config.out, record)
    return record
