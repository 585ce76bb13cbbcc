"""The edge half on its device, with a cloud far away: a generator of progress, then the record."""

import logging
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from time import monotonic
from typing import final

from torch import Tensor, nn

from eaves import __version__
from eaves.core.independence import Dependence, inputs_seen
from eaves.core.rates import Rate
from eaves.core.state import State
from eaves.errors import ConfigError, EavesError, PayloadError, StateError
from eaves.experiments.answering import far_cloud
from eaves.experiments.build import Job
from eaves.experiments.bundle import ON_BATCH, facts_of, write_bundle, write_weights
from eaves.experiments.evaluate import (
    BATCH,
    dependence_text,
    dependences,
    evaluate,
    on_batch,
    parts_of,
)
from eaves.experiments.halves import Origin, edge_job
from eaves.experiments.identity import Facts
from eaves.experiments.netconfig import AgentConfig
from eaves.experiments.phases import EdgePhase, edge_phases
from eaves.experiments.position import (
    Position,
    begin,
    fingerprint,
    finished_as,
    forget,
    restore,
    save,
)
from eaves.experiments.record import RunRecord, record_of, write_record
from eaves.experiments.recovering import back_to_beginning, keep_beginning, numbers_text
from eaves.experiments.run import PhaseProgress
from eaves.network.asking import CloudClient, NoAnswerError
from eaves.network.channel import Target
from eaves.network.edge import NetworkedEdge
from eaves.network.refusals import RefusedError
from eaves.network.spool import Spool, SpoolStatus
from eaves.network.uplink import Enrolment, Uplink, UplinkStatus
from eaves.network.waiting import CloudLate
from eaves.network.wire import Terms, pack_terms
from eaves.runtime.files import held
from eaves.runtime.pipeline import Pipeline
from eaves.runtime.process import set_up
from eaves.runtime.traffic import Progress, Snapshot

_MB = 10**6
_PART = "part/weights/"  # where a learner that hides keeps its weights
_log = logging.getLogger(__name__)
_POLL_S = 0.5  # between questions to a cloud that goes on learning
_ASK_S = 10.0  # for each of them
_PATIENCE_S = 60.0  # without an answer
_log = logging.getLogger(__name__)
_STUCK_S = 600.0  # without a step of a cloud that says that it goes on learning
_MEASURE_S = 600.0  # for all questions of the closing measurement together


@final
@dataclass(frozen=True)
class AgentProgress:
    """How far an agent is: training, the connection, what waits for it."""

    training: PhaseProgress
    uplink: UplinkStatus
    spool: SpoolStatus


def run_agent(
    origin: Origin, config: AgentConfig, target: Target, *, stop: threading.Event
) -> Iterator[AgentProgress | RunRecord]:
    """Train the edge half and send; yield progress several times a second, then the record.

    Where the edge learns alone first, no cloud is needed as long as it does. Where the cloud goes
    on learning from what has travelled, its accuracy is that after all of it.

    An interrupted run in ``config.out`` goes on, a finished one is not run again, unless
    ``config.overwrite``. At every checkpoint the bundle of the edge's half is written too, so that
    the device can answer whether or not the cloud was ever reached. When ``stop`` is set, the run
    ends after its current step with a record that is not ``complete``; what is not delivered stays
    in the spool.

    Raises:
        ConfigError, DataError: see :func:`edge_job`.
        RefusedError: the cloud refuses this edge; all is kept.
        StateError: ``config.out`` holds another run, one whose data or net have changed since, or
            is damaged.
        StorageError: the disk is full (all is kept), or another process is at work there.
    """
    origin = replace(origin, config=replace(origin.config, out=config.out))
    with held(config.out):
        yield from _run(origin, config, target, stop)


def _run(
    origin: Origin, config: AgentConfig, target: Target, stop: threading.Event
) -> Iterator[AgentProgress | RunRecord]:
    set_up(origin.config.threads)
    job, terms = edge_job(origin)
    identity = fingerprint(job, kind="agent", session=origin.session)
    if not config.overwrite and (record := finished_as(job, identity)) is not None:
        _log.info("the run in %s is finished; --overwrite trains again", config.out)
        yield record
        return
    _refuse_drops(job, config)
    *alone, sends = edge_phases(job)
    position = _enrolled(job, origin, identity, [*alone, sends][0].name, config)
    spool, position = _whole(job, config, position, sends, identity)
    with closing(spool):
        agent = _Agent(job, config, target, position, spool)
        try:
            for phase, following in pairwise([*alone, sends]):
                if position.phase == phase.name:
                    yield from agent.learn(phase, following.name, stop)
            if position.phase == sends.name:
                yield from agent.send(sends, terms, stop)
            if agent.delivered and job.cloud_steps > sends.steps:
                yield from agent.wait(stop)
        except (RefusedError, PayloadError) as error:
            agent.gave_up(error)
            agent.finish(_steps(alone, sends, position))
            raise
        yield agent.finish(_steps(alone, sends, position))


def _steps(alone: list[EdgePhase], sends: EdgePhase, position: Position) -> int:
    before = sum(phase.steps for phase in alone) if position.phase == sends.name else 0
    return before + position.steps


def _whole(
    job: Job, config: AgentConfig, position: Position, sends: EdgePhase, identity: Facts
) -> tuple[Spool, Position]:
    """Open the spool; where uploads are gone from it, go back to make them again, if that can be.

    Returns where the run stands then. What cannot be made again is lost as soon as the cloud says
    that it has not got it, either.
    """
    # What a phase without a cloud has done is no upload.
    spool = _spool(config, sent := position.steps if position.phase == sends.name else 0)
    if spool.past.is_new and sent:
        spool.past.expect_anything()
    if not spool.past.missing:
        return spool, position
    run, gone = position.enrolled["run"], numbers_text(spool.past.missing)
    if job.method.edge.one_way and back_to_beginning(job.config.out / "checkpoint"):
        spool.close()
        position = restore(job, identity)
        if position.enrolled.get("run") != run:
            raise StateError(f"the beginning kept in {job.config.out} is of another run")
        _log.warning(
            "the spool was damaged or removed: it lacks uploads of this run, which are made again "
            "from the beginning",
            extra={"lacks": gone, "steps": sent},
        )
        spool = _spool(config, 0)
        spool.past.expect_anything()
        return spool, position
    _log.error(
        "the spool was damaged or removed: it lacks uploads of this run, which cannot be made "
        "again; those that the cloud has not got are lost",
        extra={"lacks": gone},
    )
    return spool, position


@final
class _Agent:
    """One run: its position is that of the last checkpoint, on disk."""

    def __init__(
        self, job: Job, config: AgentConfig, target: Target, position: Position, spool: Spool
    ):
        self._job, self._config, self._target = job, config, target
        self._position, self._spool = position, spool
        self._uplink = UplinkStatus(session=position.enrolled["session"])
        self.delivered = False
        """The cloud has everything;"""
        self._interrupted = False
        """but it was not waited for until it had learnt on."""
        self._problem = ""

    def learn(
        self, phase: EdgePhase, following: str, stop: threading.Event
    ) -> Iterator[AgentProgress]:
        """Learn alone; where that is done, the position is the beginning of what follows."""
        job, position = self._job, self._position
        first_step = position.steps
        pipeline = Pipeline(phase.edge, None, job.wire, position.totals)
        for event in pipeline.run(
            phase.batches(job, first_step),
            stop=stop,
            first_step=first_step,
            checkpoint_s=self._config.checkpoint_s,
        ):
            if isinstance(event, Snapshot):
                self._keep(phase, event)
            else:
                yield self._progress(phase.name, phase.steps, first_step, event)
        if position.steps == phase.steps:
            position.phase, position.steps = following, 0

    def gave_up(self, error: EavesError) -> None:
        """Take note of why the cloud has ended the run, for its record."""
        self._problem = str(error)

    def send(
        self, phase: EdgePhase, terms: Terms, stop: threading.Event
    ) -> Iterator[AgentProgress]:
        """Take all steps, and stay until the cloud has what they have sent."""
        job, position, spool = self._job, self._position, self._spool
        first_step, totals = position.steps, position.totals
        if not first_step:
            keep_beginning(job.config.out / "checkpoint")
        uplink = Uplink(
            self._target,
            spool,
            _enrolment(self._config, position, phase.steps, terms),
            max_backoff_s=self._config.max_backoff_s,
            reply_bytes=0 if phase.edge.one_way else _reply_bytes(job, terms),
        )
        self._uplink = uplink.status
        edge = NetworkedEdge(phase.edge, job.wire, totals, spool, uplink)
        for event in edge.run(
            phase.batches(job, first_step),
            stop=stop,
            first_step=first_step,
            checkpoint_s=self._config.checkpoint_s,
        ):
            if isinstance(event, Snapshot):
                position.enrolled["session"] = uplink.status.session
                self._keep(phase, event)
                spool.forget_replies(event.steps)
                continue
            yield self._progress(phase.name, phase.steps, first_step, event)
        position.enrolled["session"] = uplink.status.session
        position.totals = replace(  # with what was sent since the last snapshot
            position.totals,
            wall_s=totals.wall_s,
            bytes_up=totals.bytes_up,
            sent_samples=totals.sent_samples,
        )
        self.delivered = uplink.delivered

    def wait(self, stop: threading.Event) -> Iterator[AgentProgress]:
        """Wait while the cloud goes on learning from what has travelled once.

        It is not waited for where it does not answer for a minute, answers with nonsense, or makes
        no step for ten minutes: the record says so.
        """
        left, most, heard_at = 1, 0, monotonic()
        least, moved_at = float("inf"), heard_at
        with closing(CloudClient(self._target, self._position.enrolled["session"])) as client:
            while left and not stop.is_set():
                try:
                    left, heard_at = client.steps_left(timeout_s=_ASK_S), monotonic()
                except NoAnswerError:
                    if monotonic() - heard_at > _PATIENCE_S:
                        break  # the record will say that it does not answer
                except (PayloadError, RefusedError) as error:
                    self._problem = f"the cloud was not waited for: {error}"
                    break
                if left < least:
                    least, moved_at = left, monotonic()
                elif monotonic() - moved_at > _STUCK_S:
                    self._problem = f"the cloud was not waited for: it stays at {left:,} steps left"
                    break
                if left:
                    most = max(most, left)
                    learnt = Progress(0, most - left, {}, {}, 0, self._position.totals)
                    yield self._progress("cloud", most, 0, learnt)
                    stop.wait(_POLL_S)
        self._interrupted = left > 0 and stop.is_set()

    def _keep(self, phase: EdgePhase, snapshot: Snapshot) -> None:
        position, job = self._position, self._job
        position.steps, position.totals = snapshot.steps, snapshot.totals
        save(job, position, snapshot)
        nothing: dict[str, Rate | None] = {"cloud": None, "exit": None}
        record = record_of(job, position.totals, position.steps, nothing, complete=False)
        taken = f"{snapshot.steps} of {phase.steps} steps of the phase {phase.name}"
        unfinished = {"accuracy": None, "unfinished": f"{taken}; not all is in the cloud"}
        weights = _weights(job.method.edge_modules, snapshot.edge)
        write_weights(
            job.config.out / "bundle",
            {"edge": weights},
            facts_of(record, job.dataset.interface) | unfinished,
            session=position.enrolled["session"],
            code=job.net.code,
        )

    def _progress(
        self, name: str, steps: int, first_step: int, progress: Progress
    ) -> AgentProgress:
        training = PhaseProgress(name, steps, self._job.epoch_steps, first_step, progress)
        return AgentProgress(training, replace(self._uplink), self._spool.status())

    def finish(self, steps: int) -> RunRecord:
        """Measure what a run of so many steps was worth, if it is complete; leave it on disk.

        Whatever the cloud says to the questions of the measurement, record and bundle are written.
        """
        job, network = self._job, self._network()
        complete = self.delivered and not self._interrupted
        accuracy: dict[str, Rate | None] = {"cloud": None, "exit": None}
        parts, found = parts_of(job.method), dict[str, Dependence]()
        if complete:
            with inputs_seen(parts) as seen:
                accuracy = self._measured(network)
            found = dependences(parts, seen)
            complete = not self._spool.status().lost
        record = record_of(
            job,
            self._position.totals,
            steps,
            accuracy,
            complete=complete,
            identity=self._position.identity,
        )
        notices = [*record.notices, *(dependence_text(name, x) for name, x in found.items())]
        record = replace(record, link="network", network=network, notices=notices)
        if self.delivered and not self._interrupted:
            facts = facts_of(record, job.dataset.interface) | {ON_BATCH: on_batch(found)}
            session = self._position.enrolled["session"]
            sides = {"edge": job.method.edge_modules}
            out = job.config.out / "bundle"
            write_bundle(out, sides, facts, session=session, code=job.net.code)
        write_record(job.config.out, record)
        if complete and job.privacy is not None:
            forget(job)  # whoever finds the key later would take the noise off what was sent
        return record

    def _measured(self, network: dict[str, object]) -> dict[str, Rate | None]:
        """Return the accuracies, that of the cloud only where it answers; else say why not."""
        job, session = self._job, self._position.enrolled["session"]
        edge, source, codec = job.method.edge_predictor, job.dataset.test, job.wire.codec
        classes = len(job.dataset.interface.classes)
        asked = far_cloud(
            self._target, session, job.config, classes=classes, rows=BATCH, total_s=_MEASURE_S
        )
        try:
            with asked as cloud:
                return evaluate(edge, cloud, source, codec, job.method.shield)
        except (CloudLate, PayloadError, RefusedError) as error:
            network["problem"] = f"no accuracy of the cloud: {error}"
            return evaluate(edge, None, source, codec)

    def _network(self) -> dict[str, object]:
        uplink, spool = self._uplink, self._spool.status()
        return {
            "cloud": self._target.address,
            "edge": self._target.name,
            **self._position.enrolled,
            "connections": uplink.connections,
            "uploads_sent": uplink.sent,
            "dropped_uploads": spool.dropped,
            "dropped_samples": spool.dropped_samples,
            "uploads_waiting": spool.waiting,
            "lost_uploads": spool.lost,
            "taken_back_uploads": uplink.taken_back,
            "violations": uplink.violations,
            "unasked_replies": uplink.unasked,
            **({"problem": self._problem} if self._problem else {}),
        }


def _weights(modules: Mapping[str, nn.Module], state: State | None) -> Mapping[str, Tensor]:
    """Return the edge's weights as they were at a checkpoint; the modules learn on meanwhile."""
    now: Mapping[str, Tensor] = nn.ModuleDict(dict(modules)).state_dict()
    if state is None:  # before the first step
        return now
    prefix = "weights/" if any(key.startswith("weights/") for key in state.tensors) else _PART
    return {name: state.tensors[prefix + name] for name in now}


def _refuse_drops(job: Job, config: AgentConfig) -> None:
    if config.when_full == "drop-oldest" and not job.method.edge.one_way:
        raise ConfigError(
            f"--when-full drop-oldest is for methods that send nothing back; {job.config.method} "
            "waits for the reply to every upload"
        )


def _enrolment(config: AgentConfig, position: Position, steps: int, terms: Terms) -> Enrolment:
    """Return what the cloud is told of a run of so many steps, on these terms."""
    return Enrolment(
        version=__version__,
        terms=pack_terms(terms),
        run=position.enrolled["run"],
        session=position.enrolled["session"],
        steps=steps,
        memory_bytes=int(min(config.spool_mb, config.spool_memory_mb or config.spool_mb) * _MB),
    )


def _reply_bytes(job: Job, terms: Terms) -> int:
    """Return the most that a gradient by the features of one batch takes, in any codec of ours."""
    return 4 * job.config.batch_size * prod(terms["feature_shape"]) + 64 * 1024


def _enrolled(
    job: Job, origin: Origin, identity: Facts, phase: str, config: AgentConfig
) -> Position:
    """Return where the run stands; a new one, in its first ``phase``, gets a name.

    That is on disk before the cloud hears it, and so is the key of the noise.
    """
    position = begin(job, identity) if config.overwrite else restore(job, identity)
    if not position.enrolled:
        for old in _spool_files(job.config.out):
            old.unlink(missing_ok=True)
        position.phase = phase
        position.enrolled = {"run": secrets.token_hex(8), "session": origin.session}
        save(job, position, Snapshot(0, None, None, position.totals))
    return position


def _spool_files(out: Path) -> list[Path]:
    return [out / f"spool.db{suffix}" for suffix in ("", "-wal", "-shm")]


def _spool(config: AgentConfig, steps: int) -> Spool:
    return Spool(
        _spool_files(config.out)[0],
        limit_bytes=int(config.spool_mb * _MB),
        memory_bytes=int(config.spool_memory_mb * _MB),
        when_full=config.when_full,
        keep_through=steps,
    )
