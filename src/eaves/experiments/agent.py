"""The edge half on its device, with a cloud far away: a generator of progress, then the record."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from eaves import __version__
from eaves.core.rates import Rate
from eaves.errors import ConfigError
from eaves.experiments.answering import CloudLate, FarCloud
from eaves.experiments.build import Job
from eaves.experiments.bundle import facts_of, write_bundle
from eaves.experiments.compare import finished
from eaves.experiments.evaluate import evaluate
from eaves.experiments.halves import Origin, edge_job
from eaves.experiments.netconfig import AgentConfig
from eaves.experiments.phases import training_batches
from eaves.experiments.position import Position, begin, restore, save
from eaves.experiments.record import RunRecord, record_of, write_record
from eaves.experiments.run import PhaseProgress
from eaves.network.asking import CloudClient
from eaves.network.channel import Target
from eaves.network.edge import NetworkedEdge
from eaves.network.spool import Spool, SpoolStatus
from eaves.network.uplink import Enrolment, Uplink, UplinkStatus
from eaves.network.wire import pack_terms
from eaves.runtime.process import set_up
from eaves.runtime.traffic import Snapshot

_PHASE = "train"
_MB = 10**6


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

    An interrupted run in ``config.out`` goes on, a finished one is not run again, unless
    ``config.overwrite``. When ``stop`` is set, the run ends after its current step with a record
    that is not ``complete``; what is not delivered stays in the spool.

    Raises:
        ConfigError, DataError: see :func:`edge_job`.
        RefusedError: the cloud refuses this edge; all is kept.
        StateError: ``config.out`` holds another run, or is damaged.
        StorageError: the disk is full; all is kept.
    """
    set_up(origin.config.threads)
    origin = replace(origin, config=replace(origin.config, out=config.out))
    if not config.overwrite and (record := finished(origin.config)) is not None:
        yield RunRecord(**record)
        return
    job, terms = edge_job(origin)
    _refuse_drops(job, config)
    position = _enrolled(job, origin, overwrite=config.overwrite)
    with closing(_spool(config, position.steps)) as spool:
        uplink = _uplink(target, spool, config, position, (job.edge_steps, pack_terms(terms)))
        first_step, totals = position.steps, position.totals
        edge = NetworkedEdge(job.method.edge, job.wire, totals, spool, uplink)
        batches = training_batches(job, first_step)
        for event in edge.run(
            batches, stop=stop, first_step=first_step, checkpoint_s=config.checkpoint_s
        ):
            if isinstance(event, Snapshot):
                position.steps, position.totals = event.steps, event.totals
                position.enrolled["session"] = uplink.status.session
                save(job, position, event)
                spool.forget_replies(event.steps)
                continue
            training = PhaseProgress(_PHASE, job.edge_steps, job.epoch_steps, first_step, event)
            yield AgentProgress(training, replace(uplink.status), spool.status())
        position.enrolled["session"] = uplink.status.session
        position.totals = replace(  # with what was sent since the last snapshot
            position.totals,
            wall_s=totals.wall_s,
            bytes_up=totals.bytes_up,
            sent_samples=totals.sent_samples,
        )
        delivered = uplink.delivered
        network = _network(target, position, uplink.status, spool.status())
    yield _finish(job, position, target, network, complete=delivered)


def _refuse_drops(job: Job, config: AgentConfig) -> None:
    if config.when_full == "drop-oldest" and not job.method.edge.one_way:
        raise ConfigError(
            f"--when-full drop-oldest is for methods that send nothing back; {job.config.method} "
            "waits for the reply to every upload"
        )


def _uplink(
    target: Target,
    spool: Spool,
    config: AgentConfig,
    position: Position,
    run: tuple[int, str],
) -> Uplink:
    """Return the uplink for a run of so many steps, on these terms."""
    steps, terms = run
    enrolment = Enrolment(
        version=__version__,
        terms=terms,
        run=position.enrolled["run"],
        session=position.enrolled["session"],
        steps=steps,
        memory_bytes=int(min(config.spool_mb, config.spool_memory_mb or config.spool_mb) * _MB),
    )
    return Uplink(target, spool, enrolment, max_backoff_s=config.max_backoff_s)


def _network(
    target: Target, position: Position, uplink: UplinkStatus, spool: SpoolStatus
) -> dict[str, object]:
    """Return what the record says of the network."""
    return {
        "cloud": target.address,
        "edge": target.name,
        **position.enrolled,
        "connections": uplink.connections,
        "uploads_sent": uplink.sent,
        "dropped_uploads": spool.dropped,
        "dropped_samples": spool.dropped_samples,
    }


def _enrolled(job: Job, origin: Origin, *, overwrite: bool) -> Position:
    """Return where the run stands; a new one gets a name, on disk before the cloud hears it."""
    position = begin(job) if overwrite else restore(job)
    if not position.enrolled:
        for old in _spool_files(job.config.out):
            old.unlink(missing_ok=True)
        position.phase = _PHASE
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


def _finish(
    job: Job, position: Position, target: Target, network: dict[str, object], *, complete: bool
) -> RunRecord:
    accuracy: dict[str, Rate | None] = {"cloud": None, "exit": None}
    if complete:
        edge, source, codec = job.method.edge_predictor, job.dataset.test, job.wire.codec
        try:
            with closing(CloudClient(target, position.enrolled["session"])) as client:
                accuracy = evaluate(edge, FarCloud(client), source, codec)
        except CloudLate as error:
            network["problem"] = f"no accuracy of the cloud: {error}"
            accuracy = evaluate(edge, None, source, codec)
    record = record_of(job, position.totals, position.steps, accuracy, complete=complete)
    record = replace(record, link="network", network=network)
    if complete:
        facts = facts_of(record, job.dataset.interface)
        session = position.enrolled["session"]
        write_bundle(
            job.config.out / "bundle", {"edge": job.method.edge_modules}, facts, session=session
        )
    write_record(job.config.out, record)
    return record
