"""The edge's connection to its cloud: what the spool holds goes up, receipts come down.

It connects anew for as long as it takes, goes on after the last upload that the cloud has, and lets
the spool forget what is durable there. Training does not wait for it.
"""

import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Final, final

import grpc

from eaves.errors import EavesError
from eaves.network.channel import Target, connect, renewed
from eaves.network.eaves_pb2 import CloudMessage, EdgeMessage, Finish, Hello, Welcome
from eaves.network.failures import explain
from eaves.network.refusals import FATAL, LateError, RefusedError
from eaves.network.spool import Entry, Spool
from eaves.network.wire import PROTOCOL, TRAIN, pack_edge_message, unpack

_POLL_S: Final = 0.2
_FIRST_BACKOFF_S: Final = 0.25
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What a run tells its cloud at the start."""

    version: str
    """Of the package, for messages to people."""
    terms: str
    run: str
    session: str
    steps: int
    memory_bytes: int


@final
@dataclass
class UplinkStatus:
    """How the connection is, for display and for the record."""

    connected: bool = False
    session: str = ""
    applied: int = 0
    durable: int = 0
    connections: int = 0
    """Times that the cloud has welcomed this run in this process."""
    sent: int = 0
    """Uploads sent, each as often as it was."""
    sent_samples: int = 0
    sent_bytes: int = 0
    """Of payloads."""
    problem: str = ""
    """Why there is no connection."""


@final
class _Moved(Exception):  # noqa: N818  # not an error
    """The cloud wants this edge at another of its ports."""


@final
class _Attempt:
    """One connection: closed once, by whichever side notices its end first."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.welcome: SimpleQueue[Welcome | None] = SimpleQueue()
        self.problem: EavesError | None = None
        """Why this side has ended it."""

    def close(self) -> None:
        self.over.set()
        self.welcome.put(None)


@final
class Uplink:
    """Sends a spool's uploads to a cloud, in a thread of its own."""

    def __init__(
        self,
        target: Target,
        spool: Spool,
        enrolment: Enrolment,
        *,
        max_backoff_s: float,
        welcome_s: float = 20.0,
    ):
        """Try again later where a cloud has not welcomed the edge within ``welcome_s``."""
        self._target, self._spool, self._enrolment = target, spool, enrolment
        self._max_backoff_s, self._welcome_s = max_backoff_s, welcome_s
        self._closing, self._last, self._final = threading.Event(), 0, 0
        self._call: Any = None
        self.status = UplinkStatus(session=enrolment.session)
        self.replies: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self.error: BaseException | None = None
        """Why the uplink has given up."""
        self._thread = threading.Thread(target=self._run, name="eaves-uplink", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def finish(self, last: int) -> None:
        """Say that upload ``last`` is the last one; the uplink ends when it is durable."""
        self._last = last
        self._spool.wake()

    @property
    def done(self) -> bool:
        """Whether everything is durable in the cloud, or the uplink has given up."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def delivered(self) -> bool:
        """Whether all that did not have to be dropped is durable in the cloud."""
        return 0 < self._final <= self.status.durable

    def close(self) -> None:
        """End the connection; what is not durable in the cloud stays in the spool."""
        self._closing.set()
        self._spool.wake()
        if self._call is not None:
            self._call.cancel()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._connect_for_ever()
        except BaseException as error:  # handed to the caller's thread
            self.error = error
        finally:
            self.status.connected = False

    def _connect_for_ever(self) -> None:
        backoff_s, target = _FIRST_BACKOFF_S, self._target
        while not self._closing.is_set():
            welcomed, superseded = self.status.connections, False
            try:
                if self._talk(target):
                    return
            except _Moved as moved:
                if target is self._target:
                    target = replace(self._target, address=str(moved))
                    continue
                self._wait_for(f"sent on from port to port, to {moved}")
            except LateError as error:
                self._wait_for(str(error))
            except grpc.RpcError as error:
                superseded = error.code() is grpc.StatusCode.ABORTED
                self._note(error)
            target = self._target
            # Two of one name would throw each other out without an end.
            if self.status.connections > welcomed and not superseded:
                backoff_s = _FIRST_BACKOFF_S
            # Full jitter, so that a thousand edges do not come back at once.
            self._closing.wait(random.uniform(0, backoff_s))
            backoff_s = min(self._max_backoff_s, 2 * backoff_s)

    def _note(self, error: grpc.RpcError) -> None:
        code, details = error.code(), error.details() or ""
        if self._closing.is_set():
            return
        details = explain(error, self._target.address) or details
        if code in FATAL:
            self.status.problem = f"{code.name}: {details}"
            raise RefusedError(f"the cloud at {self._target.address} refuses: {details}") from error
        self._wait_for(f"{code.name}: {details}")

    def _wait_for(self, problem: str) -> None:
        self.status.problem = problem
        _log.warning("no connection", extra={"why": problem})

    def _talk(self, target: Target) -> bool:
        """Hold one connection; return True when all is durable.

        Raises:
            grpc.RpcError: the connection ended.
            EavesError: why this side has ended it.
        """
        attempt, target = _Attempt(), renewed(target)
        with connect(target) as channel:
            method = channel.stream_stream(TRAIN, pack_edge_message, unpack(CloudMessage))
            self._call = method(self._outgoing(attempt), metadata=target.metadata)
            timer = threading.Timer(self._welcome_s, self._give_up, [attempt])
            timer.daemon, timer.name = True, "eaves-welcome"
            timer.start()
            try:
                if self._closing.is_set():  # close() did not know of this call
                    self._call.cancel()
                self._listen(attempt, timer)
                return self.delivered
            except grpc.RpcError:
                if attempt.problem is not None:
                    raise attempt.problem from None
                if self.delivered:  # the cloud has not said goodbye
                    return True
                raise
            finally:
                timer.cancel()
                attempt.close()
                self._call.cancel()
                self.status.connected = False

    def _listen(self, attempt: _Attempt, timer: threading.Timer) -> None:
        for message in self._call:
            if message.WhichOneof("kind") == "welcome":
                timer.cancel()
                self._welcomed(message.welcome, attempt)
                continue
            receipt, status = message.receipt, self.status
            self._expect_ours(receipt.applied, receipt.durable)
            status.applied = max(status.applied, receipt.applied)
            status.durable = max(status.durable, receipt.durable)
            self._spool.forget(receipt.durable)
            if receipt.reply:
                self.replies.put((receipt.applied, receipt.reply))
            if self.delivered:
                self._spool.wake()

    def _give_up(self, attempt: _Attempt) -> None:
        """End a connection that nobody answers on."""
        if not self.status.connected and not attempt.over.is_set():
            attempt.problem = LateError(
                f"what is at {self._target.address} has not answered within {self._welcome_s:g} s"
            )
            self._call.cancel()

    def _welcomed(self, welcome: Welcome, attempt: _Attempt) -> None:
        if welcome.port_offset:
            host, _, port = self._target.address.rpartition(":")
            raise _Moved(f"{host}:{int(port) + welcome.port_offset}")
        self._expect_ours(welcome.applied)
        status = self.status
        if welcome.applied < status.durable:
            _log.error(
                "the cloud has lost what it had made durable: it was brought back from an older "
                "copy, and what came between is not here any more",
                extra={"durable": status.durable, "applied": welcome.applied},
            )
        status.session, status.applied, status.connected = welcome.session, welcome.applied, True
        status.connections, status.problem = status.connections + 1, ""
        self._enrolment = replace(self._enrolment, session=welcome.session)
        self._spool.rewind(welcome.applied)
        attempt.welcome.put(welcome)
        _log.info("connected", extra={"cloud": self._target.address, "applied": welcome.applied})

    def _expect_ours(self, *numbers: int) -> None:
        """Refuse a cloud that has more than was ever made: the spool would forget what it holds."""
        if (most := max(numbers)) > self._enrolment.steps:
            raise RefusedError(
                f"the cloud at {self._target.address} says that it has upload {most} of a run of "
                f"{self._enrolment.steps}"
            )

    def _outgoing(self, attempt: _Attempt) -> Iterator[EdgeMessage | tuple[int, int, bytes]]:
        """Yield what goes up; runs in a thread of gRPC's."""
        yield EdgeMessage(hello=self._hello())
        welcome = attempt.welcome.get()
        if welcome is None:
            return
        try:
            yield from self._rest(attempt, welcome)
        except EavesError as error:  # gRPC would say only that there was one
            attempt.problem = error
            self._call.cancel()

    def _rest(
        self, attempt: _Attempt, welcome: Welcome
    ) -> Iterator[EdgeMessage | tuple[int, int, bytes]]:
        """Yield the uploads, and that they were all; end when they are durable."""
        most_bytes = min(welcome.max_message_bytes, self._target.max_message_bytes)
        follows, finished = welcome.applied, False
        while not (attempt.over.is_set() or self._closing.is_set()):
            last = self._last  # before looking: all uploads were put before this was said
            entry = self._spool.after(follows, timeout_s=_POLL_S)
            if entry is not None:
                _expect_fits(entry, most_bytes)
                yield entry.seq, follows, entry.data
                follows = entry.seq
                self.status.sent += 1
                self.status.sent_samples += entry.samples
                self.status.sent_bytes += len(entry.data)
            elif last and not finished:
                # Not `last` itself: a spool that is full may have had to drop that.
                yield EdgeMessage(finish=Finish(seq=follows))
                self._final, finished = follows, True
            elif finished and self.delivered:
                return  # the cloud hangs up, and has then read all of it

    def _hello(self) -> Hello:
        enrolment = self._enrolment
        return Hello(
            protocol=PROTOCOL,
            version=enrolment.version,
            terms=enrolment.terms,
            run=enrolment.run,
            session=enrolment.session,
            steps=enrolment.steps,
            memory_bytes=enrolment.memory_bytes,
        )


def _expect_fits(entry: Entry, most_bytes: int) -> None:
    if len(entry.data) > most_bytes:
        raise RefusedError(
            f"upload {entry.seq} has {len(entry.data)} bytes, and the cloud takes {most_bytes} at "
            "most: choose a smaller batch or a codec that says it in less, or raise the limit of "
            "both sides"
        )
