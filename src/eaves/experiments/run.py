"""From a configuration to a record: ``run`` yields progress and, at last, the record."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import final

from torch import nn

from eaves.core.independence import Dependence, inputs_seen
from eaves.core.rates import Rate
from eaves.experiments.answering import Beside
from eaves.experiments.build import Job, build_job
from eaves.experiments.bundle import ON_BATCH, facts_of, write_bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.evaluate import (
    changed_alone,
    dependence_text,
    dependences,
    evaluate,
    on_batch,
    parts_of,
)
from eaves.experiments.phases import Phase, phases_of
from eaves.experiments.position import (
    Position,
    begin,
    begun,
    expect_vacant,
    fingerprint,
    finished_as,
    restore,
    save,
)
from eaves.experiments.record import RunRecord, record_of, write_record
from eaves.experiments.start import session_of, start
from eaves.runtime.files import held
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
    overwrite: bool = False,
) -> Iterator[PhaseProgress | RunRecord]:
    """Train as ``config`` says; yield progress several times a second, then the record.

    Leaves ``config.toml``, ``checkpoint/``, ``record.json`` and ``bundle/`` in ``config.out``.
    ``net`` is a net of your own, used instead of the one that ``config.net`` names. With ``resume``
    the run goes on from its checkpoint and ends with the weights of an uninterrupted one, bit for
    bit on the same machine and version; of a complete one the record is returned. A run that is
    there already is replaced with ``overwrite`` alone. When ``stop`` is set, the run writes a
    checkpoint at the next step and ends with a record that is not ``complete``.

    Raises:
        ConfigError: a name or combination that cannot work, or ``config.out`` holds a run.
        DataError: the data set is missing or damaged.
        DivergedError: the loss became NaN; the last checkpoint is kept.
        StateError: the checkpoint to resume from is damaged or of another configuration, or the
            data or the net have changed since.
        StorageError: the disk is full (the last checkpoint is intact), ``config.out`` cannot be
            written, or another process is at work in it.
    """
    stop = stop or threading.Event()
    if net is not None:
        config = replace(config, net=f"own:{type(net).__name__}")
    with held(config.out):
        if not (resume or overwrite):
            expect_vacant(config.out)
        set_up(config.threads)
        if config.mixes and not resume:
            config.mixing.expect_secret()
        job = build_job(config, net)
        source = config.siamese.start if config.tunes else None
        identity = fingerprint(job, session=session_of(source))
        if resume and (record := finished_as(job, identity)) is not None:
            yield record
            return
        if source is not None and not (resume and begun(config.out)):
            start(job, source)
        position = restore(job, identity) if resume else begin(job, identity)
        yield from _train(job, position, stop)


def _train(
    job: Job, position: Position, stop: threading.Event
) -> Iterator[PhaseProgress | RunRecord]:
    with _store(job, position) as store:
        phases = phases_of(job, store)
        names = [phase.name for phase in phases]
        for phase in phases[names.index(position.phase) if position.phase else 0 :]:
            if phase.name != position.phase:
                position = Position(phase.name, 0, position.totals, identity=position.identity)
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
    method, codec, parts = job.method, job.wire.codec, parts_of(job.method)
    found: dict[str, Dependence] = {}
    notices: tuple[str, ...] = ()
    if complete:
        answers, test = None if cloud is None else Beside(cloud), job.dataset.test
        with inputs_seen(parts) as seen:
            accuracy = evaluate(method.edge_predictor, answers, test, codec, method.shield)
        found = dependences(parts, seen)
        notices = tuple(dependence_text(name, why) for name, why in found.items())
        if answers is not None and not (found or job.config.hides or job.config.mixes):
            notices = changed_alone(method.edge_predictor, answers, test, codec)
    record = record_of(
        job, position.totals, steps, accuracy, complete=complete, identity=position.identity
    )
    record = replace(record, notices=[*record.notices, *notices])
    if complete:
        sides = {"edge": method.edge_modules, "cloud": method.cloud_modules}
        facts = facts_of(record, job.dataset.interface) | {ON_BATCH: on_batch(found)}
        write_bundle(job.config.out / "bundle", sides, facts, code=job.net.code)
    write_record(job.config.out, record)
    return record
