"""The cloud half as a service: a generator of what it is doing, until it is told to stop."""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import monotonic
from typing import final

import grpc

from eaves import __version__
from eaves.core.switching import quick_switching
from eaves.errors import ConfigError, EavesError
from eaves.experiments.build import wire_of
from eaves.experiments.bundle import write_bundle
from eaves.experiments.config import TrainConfig
from eaves.experiments.halves import Origin, cloud_half, facts_of_terms
from eaves.experiments.netconfig import ServeConfig, parse_address
from eaves.experiments.phases import augmented_again
from eaves.experiments.restoring import Undo, finish_forgetting, forget, roll_back
from eaves.network.counts import Counts
from eaves.network.credentials import Gate
from eaves.network.group import Group, find_group
from eaves.network.half import Half, largest_message
from eaves.network.history import History
from eaves.network.keeper import Keeper
from eaves.network.ledger import Ledger
from eaves.network.lessons import Lessons, Rounds
from eaves.network.limits import Limits
from eaves.network.metrics import Metrics
from eaves.network.policy import TrainingPolicy
from eaves.network.server import Server, Service
from eaves.network.trainer import Trainer
from eaves.network.wire import pack_terms
from eaves.runtime.process import set_up

_MB = 10**6
_TICK_S = 0.5
_QUIET_S = 5.0
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class ServeProgress:
    """What a cloud is doing."""

    port: int
    session: str
    connected: int
    finished: int
    ledger: Ledger
    counts: Counts
    figures: dict[str, float]
    waiting: int


def serve(
    origin: Origin,
    config: ServeConfig,
    gate: Gate,
    credentials: grpc.ServerCredentials | None,
    *,
    stop: threading.Event,
    undo: Undo | None = None,
) -> Iterator[ServeProgress]:
    """Serve until ``stop``, or until all edges have trained if so configured; yield twice a second.

    What is to be undone is undone first. The last event is yielded after everything is on disk.

    Raises:
        ConfigError: an address that cannot be had, a method that a cloud cannot serve.
        StateError: ``config.out`` holds another training, or is damaged.
        StorageError: the disk is full as the service starts or ends.
    """
    set_up(config.threads)
    with quick_switching(), closing(find_group()) as group, ExitStack() as stack:
        service = _Service(origin, config, group, undo or Undo())
        stack.callback(service.close)
        port = service.start(gate, credentials)
        stack.callback(service.end)
        if config.metrics:
            address = parse_address(shifted(config.metrics, group.rank))
            stack.enter_context(closing(Metrics(service.trainer, *address)))
        done = _Done(config)
        while not (stop.wait(_TICK_S) or done.now(service.trainer)) and service.worker.is_alive():
            service.write_when_trained()
            yield _progress(service.trainer, port)
    if service.worker.error is not None:
        raise service.worker.error
    service.write()
    yield _progress(service.trainer, port)


@final
class _Service:
    """What a service is made of: the half, its trainer and the trainer's thread, the server."""

    def __init__(self, origin: Origin, config: ServeConfig, group: Group, undo: Undo):
        half, self._method, self._terms = cloud_half(origin, config.device, config.out)
        self._code, self._written = origin.code, False
        if config.merge > 1 and not self._method.edge.one_way:
            raise ConfigError(
                f"--merge {config.merge} is for methods that send nothing back; "
                f"{origin.config.method} replies to every upload"
            )
        if self._method.cloud is None:  # trained elsewhere
            config = replace(config, edges=0)
        self._lessons = _lessons(origin.config, config, group)
        half = _served(half, self._lessons, config, group)
        self._max_message_bytes = min(
            int(config.max_message_mb * _MB),
            largest_message(wire_of(origin.config).codec, half.accepts),
        )
        self._origin, self._config, self._group = origin, config, group
        folder, self._files = config.out / "checkpoint", ExitStack()
        self.keeper = Keeper(
            folder,
            pack_terms(self._terms),
            every_s=config.checkpoint_s,
            history=History(config.out / "history", config.history),
        )
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._undo(undo, half)
            self.trainer = Trainer(
                half,
                self.keeper,
                group,
                edges=config.edges,
                merge=config.merge,
                max_queries=config.max_queries,
                session=origin.session,
            )
            on_error.pop_all()
        self._files.callback(self.trainer.contributions.close)
        self.worker = _Worker(self.trainer)
        self._server: Server | None = None

    def _undo(self, undo: Undo, half: Half) -> None:
        """Take back what is to be taken back, before anything is loaded.

        Raises:
            ConfigError: it cannot be, or not by several processes.
        """
        if self._group.size > 1:
            if undo != Undo():
                raise ConfigError(
                    "--rollback and --forget are for one process: start `eaves serve` with them "
                    "and without torchrun, end it, and start the group"
                )
            return
        finish_forgetting(self._config.out)
        if undo.rollback is not None:
            past = roll_back(self._config.out, self.keeper, undo.rollback)
            _log.info("rolled back", extra={"checkpoint": past.number, "steps": past.steps})
        if undo.forget is not None:
            left_out = forget(self._config, self.keeper, half, undo.forget)
            _log.info("forgot an edge", extra={"edge": undo.forget, "uploads": left_out})

    def start(self, gate: Gate, credentials: grpc.ServerCredentials | None) -> int:
        """Listen and work; return the port.

        Raises:
            ConfigError: the address cannot be had.
        """
        limits = _limits(self._config, self._max_message_bytes)
        service = Service(self.trainer, gate, self._terms, limits, version=__version__)
        server = Server(service, limits)
        port = server.start(shifted(self._config.listen, self._group.rank), credentials)
        self._server = server
        self.worker.start()
        return port

    def end(self) -> None:
        """Admit no further edge, finish what waits, keep it, tell the edges, hang up."""
        assert self._server is not None  # start() has returned
        self._server.drain()
        self.worker.end()
        self._server.stop()

    def close(self) -> None:
        """Close what is on disk, when no thread works any more."""
        self.keeper.close()
        self._files.close()
        if self._lessons is not None:
            self._lessons.close()

    def write_when_trained(self) -> None:
        """Leave a bundle as soon as all edges have trained to their end."""
        if not self._written and _trained(self.trainer, self._config):
            self.write()

    def write(self) -> None:
        """Leave the cloud's half as a bundle; rank 0 does, for all."""
        self._written = True
        if self._group.rank:
            return
        facts = {
            **facts_of_terms(self._origin.config, self._terms),
            "accuracy": self._origin.accuracy,
            "uploads": self.trainer.accounts().as_json(),
        }
        sides = {"cloud": self._method.cloud_modules}
        write_bundle(
            self._config.out / "bundle",
            sides,
            facts,
            session=self.trainer.session,
            code=self._code,
        )


def _served(half: Half, lessons: Lessons | None, config: ServeConfig, group: Group) -> Half:
    """Return the half with what this service keeps, takes and allows."""
    most = max(half.accepts.query_batch, config.max_queries)
    return replace(
        half,
        lessons=lessons,
        accepts=replace(half.accepts, query_batch=most),
        policy=_policy(half.policy, config, group),
    )


@final
class _Worker(threading.Thread):
    """The trainer's thread."""

    def __init__(self, trainer: Trainer):
        super().__init__(name="eaves-trainer")
        self._trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.run()
        except BaseException as error:  # handed to the main thread
            self.error = error
            if not isinstance(error, EavesError):
                _log.exception("the trainer has failed")

    def end(self) -> None:
        """Let it finish what waits."""
        self._trainer.stop()
        if self.is_alive():
            self.join()


def _lessons(train: TrainConfig, config: ServeConfig, group: Group) -> Lessons | None:
    """Return what uploads are kept in that travel once; None where they are learnt from once."""
    copies = 1 if train.spec.sends == "inputs" else train.copies
    epochs = train.cloud_epochs or train.epochs
    if not train.sends_once or epochs == copies:
        return None
    if group.size > 1:
        raise ConfigError(
            "uploads that travel once are kept, and learnt from again, by one process: start "
            "`eaves serve` without torchrun, or train with --send every-epoch"
        )
    rounds = Rounds(
        folder=config.out / "store",
        limit_bytes=int(config.store_mb * _MB),
        epochs=epochs,
        copies=copies,
        max_steps=train.max_steps,
        seed=train.seed,
        edges=max(1, config.edges),
    )
    return Lessons(rounds, augmented_again(train))


def _policy(policy: TrainingPolicy, config: ServeConfig, group: Group) -> TrainingPolicy:
    """Return the policy of the method with what the operator has set.

    Raises:
        ConfigError: several processes cannot do it.
    """
    robust = config.merge > 1 and config.merge_rule not in ("auto", "mean")
    if group.size > 1 and (robust or config.keep_uploads):
        option = f"--merge-rule {config.merge_rule}" if robust else "--keep-uploads"
        raise ConfigError(
            f"{option} is for one process, which sees the uploads of all edges: start `eaves "
            "serve` without torchrun"
        )
    return replace(
        policy,
        total_steps=config.total_steps or 0,
        final_rate=config.final_rate,
        merge_rule="mean" if group.size > 1 else config.merge_rule,
        merge_wait_s=config.merge_wait_s,
        gradient_times=config.gradient_limit,
        feature_times=config.feature_limit,
        strikes=config.quarantine,
        folder=config.out,
        keep_bytes=int(config.keep_uploads * _MB),
    )


def _trained(trainer: Trainer, config: ServeConfig) -> bool:
    """Return whether all edges have trained to their end, and the cloud on what it has kept."""
    return trainer.accounts().all_durable(config.edges) and not trainer.left


def _limits(config: ServeConfig, max_message_bytes: int) -> Limits:
    return Limits(
        max_message_bytes=max_message_bytes,
        max_edges=config.max_edges,
        max_waiting_bytes=int(config.waiting_mb * _MB),
        # As many as arrive while the trainer is at work, but not all that there is for all.
        edge_bytes=max(int(config.waiting_mb * _MB) // 8, max_message_bytes),
        edge_queries=config.edge_queries,
        queries_per_s=config.queries_per_s,
        calls_per_s=config.calls_per_s,
        uploads_per_s=config.uploads_per_s,
        bytes_per_s=None if config.mb_per_s is None else config.mb_per_s * _MB,
    )


@final
class _Done:
    """Tells when all edges have trained, and have asked what they wanted to ask."""

    def __init__(self, config: ServeConfig):
        self._config, self._queries, self._quiet_since = config, -1, monotonic()

    def now(self, trainer: Trainer) -> bool:
        """Whether the service may end; to be asked regularly."""
        if not (self._config.exit_when_done and _trained(trainer, self._config)):
            return False
        if trainer.counts.queries != self._queries or trainer.connected():
            self._queries, self._quiet_since = trainer.counts.queries, monotonic()
        return monotonic() - self._quiet_since > _QUIET_S


def shifted(address: str, ports: int) -> str:
    """Return an address that many ports further, for the next process of a group.

    >>> shifted("127.0.0.1:7443", 2)
    '127.0.0.1:7445'
    """
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + ports if int(port) else 0}"


def _progress(trainer: Trainer, port: int) -> ServeProgress:
    ledger = trainer.accounts()
    return ServeProgress(
        port=port,
        session=trainer.session,
        connected=len(trainer.connected()),
        finished=ledger.finished(),
        ledger=ledger,
        counts=replace(trainer.counts),
        figures=dict(trainer.figures.means),
        waiting=len(trainer.work),
    )
