"""The edge's connection to its cloud: what the spool holds goes up, receipts come down.

It connects again for as long as needed, goes on after the last upload that the cloud has, and lets
the spool forget what is durable there. Training does not wait for it.
"""

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any, Final, final

import grpc

from eaves.errors import EavesError
from eaves.network.channel import Target, connect, renewed
from eaves.network.claims import expect_kind, expect_pace, expect_receipt, expect_welcome
from eaves.network.eaves_pb2 import CloudMessage, EdgeMessage, Finish, Hello, Receipt, Welcome
from eaves.network.failures import explain
from eaves.network.refusals import FATAL, LateError, ProtocolError, RefusedError, plain_words
from eaves.network.spool import Entry, Spool
from eaves.network.wire import PROTOCOL, TRAIN, pack_edge_message, unpack

_POLL_S: Final = 0.2
_FIRST_BACKOFF_S: Final = 0.25
_SMALL_BYTES: Final = 16 * 1024  # of a welcome or a receipt without a reply: some hundred
_MOST_VIOLATIONS: Final = 10  # in a row, after which a run that only waits for delivery gives up
_VIOLATIONS: Final = {
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"): "it sends more than is agreed on",
    (grpc.StatusCode.INTERNAL, "deserializing"): "it sends bytes that are no message",
}
"""How gRPC, on this side, says that it has ended a call because of what came."""
_LOST: Final = (
    "the cloud has lost what it had made durable: it was brought back from an older copy, and what "
    "came between is not here any more"
)
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

    def hello(self) -> Hello:
        """Return it as the first message of a connection."""
        return Hello(
            protocol=PROTOCOL,
            version=self.version,
            terms=self.terms,
            run=self.run,
            session=self.session,
            steps=self.steps,
            memory_bytes=self.memory_bytes,
        )


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
    violations: int = 0
    """Connections that ended because the cloud said what the protocol does not allow."""
    unasked: int = 0
    """Replies that came where none were expected; they are not kept."""
    taken_back: int = 0
    """Uploads that the cloud had called durable, and then had no more."""


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
        reply_bytes: int = 0,
    ):
        """Try again later where a cloud has not welcomed the edge within ``welcome_s``.

        ``reply_bytes`` is the most that a reply of a two-way method takes; 0: there are none.
        """
        self._reply_bytes = reply_bytes
        self._target = replace(target, receive_bytes=_SMALL_BYTES + reply_bytes)
        self._spool, self._enrolment = spool, enrolment
        self._highest_sent, self._in_a_row = 0, 0
        self._max_backoff_s, self._welcome_s = max_backoff_s, welcome_s
        self._closing, self._last = threading.Event(), 0
        self._final: int | None = None  # the last upload that there is to send
        self._call: Any = None
        self.status = UplinkStatus(session=enrolment.session)
        self.replies: Queue[tuple[int, bytes]] = Queue(1)
        """The last reply, with the number of its upload: an edge waits for one at a time."""
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
        return self._final is not None and self._final <= self.status.durable

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
            welcomed, hostile = self.status.connections, False
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
            except ProtocolError as error:
                hostile = True
                self._violated(str(error))
            except grpc.RpcError as error:
                # Two of one name would throw each other out without an end.
                hostile = error.code() is grpc.StatusCode.ABORTED
                self._note(error)
            target = self._target
            if self.status.connections > welcomed and not hostile:
                backoff_s = _FIRST_BACKOFF_S
            # Full jitter, so that a thousand edges do not come back at once.
            self._closing.wait(random.uniform(0, backoff_s))
            backoff_s = min(self._max_backoff_s, 2 * backoff_s)

    def _note(self, error: grpc.RpcError) -> None:
        code = error.code()
        if self._closing.is_set():
            return
        details = plain_words(explain(error, self._target.address) or error.details() or "")
        if (claim := _claim_in(code, details)) is not None:
            self._violated(claim)
        elif code in FATAL:
            self.status.problem = f"{code.name}: {details}"
            raise RefusedError(f"the cloud at {self._target.address} refuses: {details}") from error
        else:
            self._wait_for(f"{code.name}: {details}")

    def _violated(self, claim: str) -> None:
        """Count it, and go on as if the cloud were out of reach; a run that is done gives up."""
        self.status.violations += 1
        self._in_a_row += 1
        self._wait_for(
            f"the cloud at {self._target.address} does not keep to the protocol: {claim}"
        )
        if self._last and self._in_a_row >= _MOST_VIOLATIONS:
            raise RefusedError(f"{self.status.problem}. What is not delivered is kept")

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
            except (grpc.RpcError, ProtocolError):
                if attempt.problem is not None:
                    raise attempt.problem from None
                if self.delivered:  # whatever the cloud says then, or does not say
                    return True
                raise
            finally:
                timer.cancel()
                attempt.close()
                self._call.cancel()
                self.status.connected = False

    def _listen(self, attempt: _Attempt, timer: threading.Timer) -> None:
        """Take what comes down; raises :class:`ProtocolError` for what no cloud may say."""
        welcomed, before = False, self.status.sent
        for count, message in enumerate(self._call, 1):
            expect_pace(count, self.status.sent - before)
            if expect_kind(message, welcomed=welcomed) == "receipt":
                self._received(message.receipt)
                continue
            timer.cancel()
            welcomed = True
            self._welcomed(message.welcome, attempt)

    def _received(self, receipt: Receipt) -> None:
        expect_receipt(receipt, most=self._most())
        status = self.status
        if receipt.durable > status.durable:
            self._in_a_row = 0  # it is getting somewhere
        status.applied = max(status.applied, receipt.applied)
        status.durable = max(status.durable, receipt.durable)
        self._spool.forget(receipt.durable)
        if receipt.reply and not self._reply_bytes:
            status.unasked += 1
        elif receipt.reply:
            _put_last(self.replies, (receipt.applied, receipt.reply))
        if self.delivered:
            self._spool.wake()

    def _most(self) -> int:
        """Return the highest number that may have been sent: the cloud can have no more."""
        return max(self._highest_sent, min(self._spool.past.sent, self._enrolment.steps))

    def _give_up(self, attempt: _Attempt) -> None:
        """End a connection that no cloud answers on."""
        if not self.status.connected and not attempt.over.is_set():
            attempt.problem = LateError(
                f"what is at {self._target.address} has not answered within {self._welcome_s:g} s"
            )
            self._call.cancel()

    def _welcomed(self, welcome: Welcome, attempt: _Attempt) -> None:
        host, _, port = self._target.address.rpartition(":")
        session = self._enrolment.session
        expect_welcome(welcome, session=session, most=self._most(), port=int(port))
        if welcome.port_offset:
            raise _Moved(f"{host}:{int(port) + welcome.port_offset}")
        status = self.status
        if welcome.applied < status.durable:
            status.taken_back = max(status.taken_back, status.durable - welcome.applied)
            _log.error(_LOST, extra={"durable": status.durable, "applied": welcome.applied})
        status.session, status.applied, status.connected = welcome.session, welcome.applied, True
        status.connections, status.problem = status.connections + 1, ""
        self._enrolment = replace(self._enrolment, session=welcome.session)
        self._spool.past.lose_missing(welcome.applied)
        self._spool.rewind(welcome.applied)
        attempt.welcome.put(welcome)
        _log.info("connected", extra={"cloud": self._target.address, "applied": welcome.applied})

    def _outgoing(self, attempt: _Attempt) -> Iterator[EdgeMessage | tuple[int, int, bytes]]:
        """Yield what goes up; runs in a thread of gRPC's."""
        yield EdgeMessage(hello=self._enrolment.hello())
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
                self._spool.past.reserve(entry.seq)
                self._highest_sent = max(self._highest_sent, entry.seq)
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


def _put_last(replies: Queue[tuple[int, bytes]], reply: tuple[int, bytes]) -> None:
    """Keep a reply, and not one before it that was not waited for."""
    with suppress(Empty):
        replies.get_nowait()
    with suppress(Full):
        replies.put_nowait(reply)


def _claim_in(code: grpc.StatusCode, details: str) -> str | None:
    """Return what a cloud did wrong, where gRPC has ended a call on this side because of it."""
    for (known, words), claim in _VIOLATIONS.items():
        if code is known and words in details:
            return f"{claim} ({details})"
    return None


def _expect_fits(entry: Entry, most_bytes: int) -> None:
    if len(entry.data) > most_bytes:
        raise RefusedError(
            f"upload {entry.seq} has {len(entry.data)} bytes, and the cloud takes {most_bytes} at "
            "most: choose a smaller batch or a codec that says it in less, or raise the limit of "
            "both sides"
        )
