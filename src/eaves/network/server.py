"""The cloud's front: gRPC streams and queries in, work for the trainer out.

All of it runs in one event loop in a thread of its own; nothing here computes.

Who calls, and whether it may, is decided before any of its message is received: a handler for
streams, and all here are, gets nothing before it asks, while one for single messages is called with
a message that was received whole. On the wire both are the same.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, Final, TypeAlias, final

import grpc
import grpc.aio
from google.protobuf.message import Message

from eaves.errors import AccessError, ConfigError, EavesError, PayloadError
from eaves.network.credentials import Gate, Peer
from eaves.network.eaves_pb2 import (
    Answer,
    CloudMessage,
    EdgeMessage,
    EdgeStatus,
    Finish,
    Hello,
    Query,
    StatusReply,
    Welcome,
)
from eaves.network.health import Health, host_of
from eaves.network.ledger import Run
from eaves.network.limits import Held, Limits, Share, Shares
from eaves.network.line import Connection, Returns
from eaves.network.refusals import BusyError, LateError, SupersededError, code_of
from eaves.network.trainer import Trainer
from eaves.network.wire import (
    PROTOCOL,
    SERVICE,
    Terms,
    Uploaded,
    expect_same_terms,
    pack,
    pack_terms,
    server_options,
    unpack,
    unpack_edge_message,
    unpack_terms,
)
from eaves.network.workqueue import QueryWork, UploadWork
from eaves.runtime.process import return_freed_memory

_TICK_S: Final = 1.0  # how soon it is noticed that an edge is revoked or has expired
_MAX_RUN_NAME: Final = 64
_MOST_TICKET: Final = 64
_MAX_WORDS: Final = 2000  # of a refusal: gRPC would not carry many more
_GRACE_S: Final = 1.0  # in which a stream that was superseded may read why
_MUCH_BYTES: Final = 2**26  # received at once, after which memory is returned
_log = logging.getLogger(__name__)
Context: TypeAlias = Any  # grpc.aio.ServicerContext, which has no types
Message_: TypeAlias = EdgeMessage | Uploaded | None
"""What an edge sent; None where it is no message."""
_END: Final[Any] = object()


@final
class Service:
    """The methods of ``eaves.proto``, for a trainer."""

    def __init__(
        self, trainer: Trainer, gate: Gate, terms: Terms, limits: Limits, *, version: str = ""
    ):
        """``version`` is that of the package, for messages to people."""
        self._trainer, self._gate, self._terms, self._limits = trainer, gate, terms, limits
        self._version, self._packed_terms = version, pack_terms(terms)
        self._open: dict[str, Connection] = {}
        self.shares, self.held = Shares(limits), Held(limits)
        self._queries, self._returns = 0, Returns()
        self.stopping = False

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods, as gRPC takes them."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Train": grpc.stream_stream_rpc_method_handler(
                    self.train, unpack_edge_message, pack
                ),
                "Infer": grpc.stream_unary_rpc_method_handler(self.infer, unpack(Query), pack),
                "Status": grpc.stream_unary_rpc_method_handler(self.status, None, pack),
            },
        )

    async def train(
        self, messages: AsyncIterator[Message_], context: Context
    ) -> AsyncIterator[Message]:
        """One edge's training."""
        peer = None
        try:
            peer, share = await self._admit(context)
            self._gate.admitted(peer, context.peer())
            await share.pause()
            with share.stream():
                async with aclosing(self._trained(messages, peer, share)) as answers:
                    async for message in answers:
                        yield message
        except EavesError as error:
            if peer is not None:  # else the gate has said why
                self._gate.refused(error, name=peer.name, address=context.peer())
            _log.info("a stream ended", extra={"peer": context.peer(), "why": str(error)})
            await _abort(context, error)

    async def _trained(
        self, messages: AsyncIterator[Message_], peer: Peer, share: Share
    ) -> AsyncGenerator[Message]:
        hello = await _first(messages, self._limits.hello_s)
        self._check(hello)
        if len(self._open) >= self._limits.max_edges and peer.name not in self._open:
            raise BusyError(f"{len(self._open)} edges are connected, which is the limit")
        line = Connection(Run(peer.name, hello.run), depth=self._limits.depth)
        if (older := self._open.get(peer.name)) is not None:
            older.end(_superseded(peer.name), _GRACE_S)
            self._trainer.close(older, superseded=True)
        offset = self._trainer.port_offset(line.run)
        applied = self._trainer.open(line, steps=hello.steps, memory_bytes=hello.memory_bytes)
        self._open[peer.name] = line
        reader = asyncio.create_task(self._read(messages, line, peer, share))
        reader.add_done_callback(lambda task: _ended(task, line))
        line.reader = reader
        _log.info("an edge is connected", extra={"edge": peer.name, "applied": applied})
        try:
            yield CloudMessage(
                welcome=Welcome(
                    session=self._trainer.session,
                    applied=applied,
                    max_message_bytes=self._limits.max_message_bytes,
                    port_offset=offset,
                )
            )
            async for message in self._receipts(line, reader, peer):
                yield message
        finally:
            reader.cancel()
            self._trainer.close(line)
            if self._open.get(peer.name) is line:
                del self._open[peer.name]
            _log.info("an edge is gone", extra={"edge": peer.name})

    async def _receipts(
        self, line: Connection, reader: "asyncio.Task[None]", peer: Peer
    ) -> AsyncIterator[Message]:
        while True:
            receipt = await line.next(0.0 if reader.done() else _TICK_S)
            self._gate.expect_allowed(peer)
            if receipt is not None:
                yield _message(receipt.applied, receipt.durable, receipt.reply)
            elif reader.done():
                reader.result()
                return

    async def _read(
        self, messages: AsyncIterator[Message_], line: Connection, peer: Peer, share: Share
    ) -> None:
        check_at = 0.0
        while True:
            await self.held.room(peer.name)
            message = await anext(messages, _END)
            if message is _END:
                return
            if (now := monotonic()) >= check_at:  # here too: it may not read its receipts
                self._gate.expect_allowed(peer)
                check_at = now + _TICK_S
            upload = _upload_or_end(message)
            if isinstance(upload, Finish):
                await share.pause()
                self._trainer.finish(line.run, upload.seq)
                continue
            pause_s = max(share.uploads.delay_s(1), share.payloads.delay_s(len(upload.payload)))
            if pause_s > 0:  # not read meanwhile: the edge's spool takes it
                await asyncio.sleep(pause_s)
            await line.room()
            work = UploadWork(line, upload.seq, upload.follows, upload.payload)
            self.held.hold(peer.name, work, len(upload.payload))
            self._trainer.work.put(work)
            del message, upload, work  # or they would be kept until the next one comes

    async def infer(self, _: AsyncIterator[Query | None], context: Context) -> Message:
        """One batch of inference."""
        share = self.shares.of(host_of(context))  # until it is known who calls
        try:
            peer, share = await self._admit(context)
            if self._queries >= self._limits.max_waiting_queries:
                raise BusyError(f"{self._queries} queries are waiting, which is the limit")
            self.held.expect_room(peer.name)
            with share.query():
                self._queries += 1
                try:
                    async with share.turn:
                        return await self._answered(context, peer, share)
                finally:
                    self._queries -= 1
        except EavesError as error:
            await _abort(context, error, share)
            raise AssertionError("abort has raised") from error

    async def _answered(self, context: Context, peer: Peer, share: Share) -> Message:
        """Answer, or refuse; both in the turn of this edge."""
        try:
            return await self._answer(await context.read(), peer)
        except EavesError as error:
            await _abort(context, error, share)
            raise AssertionError("abort has raised") from error

    async def _answer(self, query: object, peer: Peer) -> Message:
        if not isinstance(query, Query):  # None, or gRPC's word for the end
            raise PayloadError("expected a query, got bytes that are no message")
        _expect_protocol(query.protocol, "?", self._version)
        if query.session and query.session != self._trainer.session:
            raise ConfigError(_other_session(query.session, self._trainer.session))
        if len(query.ticket) > _MOST_TICKET:
            raise PayloadError(f"expected a ticket of up to {_MOST_TICKET} bytes")
        work = QueryWork(query.payload, edge=peer.name)
        self.held.hold(peer.name, work, len(work.payload))
        self._trainer.ask(work)
        return Answer(payload=await self._returns.of(work.answer), ticket=query.ticket)

    async def status(self, _: AsyncIterator[bytes], context: Context) -> Message:
        """Say what this edge has sent, and what the cloud is; there is nothing in the request."""
        try:
            peer, share = await self._admit(context)
            await share.pause()
        except EavesError as error:
            await _abort(context, error)
        connected = self._trainer.connected()
        return StatusReply(
            protocol=PROTOCOL,
            version=self._version,
            session=self._trainer.session,
            terms=self._packed_terms,
            steps=self._trainer.counts.steps,
            steps_left=self._trainer.left,
            edges=[
                EdgeStatus(
                    name=run.edge,
                    applied=account.applied,
                    durable=account.durable,
                    connected=run in connected,
                    finished=account.finished,
                )
                for run, account in self._trainer.accounts_of(peer.name).items()
            ],
        )

    def end_all(self) -> None:
        """End the training streams; the edges will come back."""
        for line in self._open.values():
            line.refuse(BusyError("the cloud has stopped; try again later"))

    async def _admit(self, context: Context) -> tuple[Peer, Share]:
        """Return who calls; a stranger who calls too often has to wait for its refusal."""
        if self.stopping:
            raise BusyError("the cloud is stopping; try again later")
        metadata = {str(k): v for k, v in context.invocation_metadata() or ()}
        try:
            peer = self._gate.identify(context.auth_context(), metadata, context.peer())
        except AccessError:
            await self.shares.of(host_of(context)).pause()
            raise
        return peer, self.shares.of(peer.name)

    def _check(self, hello: Hello) -> None:
        _expect_protocol(hello.protocol, hello.version, self._version)
        expect_same_terms(unpack_terms(hello.terms), self._terms)
        if hello.session and hello.session != self._trainer.session:
            raise ConfigError(_other_session(hello.session, self._trainer.session))
        run = hello.run
        if not (0 < len(run) <= _MAX_RUN_NAME and run.isascii() and run.isalnum()):
            raise PayloadError(f"expected a run's name of letters and digits, got {run[:80]!r}")
        if not 0 < hello.steps < 2**48:
            raise PayloadError(f"expected a run of 1 step or more, got {hello.steps}")


def _message(applied: int, durable: int, reply: bytes) -> Message:
    message = CloudMessage()
    message.receipt.applied, message.receipt.durable = applied, durable
    message.receipt.reply = reply
    return message


def _upload_or_end(message: Message_) -> Uploaded | Finish:
    """Return what came; raise a :class:`PayloadError` where it is something else."""
    if isinstance(message, Uploaded):
        return message
    kind = message.WhichOneof("kind") if message is not None else None
    if message is None or kind not in ("upload", "finish"):
        raise PayloadError(f"expected an upload, got {kind or 'bytes that are no message'}")
    if kind == "finish":
        return message.finish
    upload = message.upload
    return Uploaded(upload.seq, upload.follows, memoryview(upload.payload))


def _ended(reader: "asyncio.Task[None]", line: Connection) -> None:
    if not reader.cancelled():
        reader.exception()  # seen: where the stream has ended for another reason, no code asks
    line.wake()


async def _abort(context: Context, error: EavesError, share: Share | None = None) -> None:
    """End a call, after a pause where ``share`` says that too many ended so."""
    if share is not None:
        with suppress(BusyError):
            await share.pause()
    await context.abort(code_of(error), str(error)[:_MAX_WORDS])


async def _first(messages: AsyncIterator[Message_], patience_s: float) -> Hello:
    try:
        async with asyncio.timeout(patience_s):
            message = await anext(messages, None)
    except TimeoutError as error:
        raise LateError(f"no hello came within {patience_s:g} s") from error
    if not isinstance(message, EdgeMessage) or message.WhichOneof("kind") != "hello":
        raise PayloadError("expected a hello as the first message; is the sender an Eaves edge?")
    return message.hello


def _expect_protocol(protocol: int, edge: str, cloud: str) -> None:
    if protocol != PROTOCOL:
        raise ConfigError(
            f"the edge (Eaves {edge[:20]}) speaks version {protocol} of the protocol, the cloud "
            f"(Eaves {cloud}) version {PROTOCOL}; install the same Eaves on both sides"
        )


def _superseded(name: str) -> SupersededError:
    return SupersededError(
        f"edge {name} has connected once more, and the newer connection stays: do two devices use "
        "the same name or credentials?"
    )


def _other_session(edge: str, cloud: str) -> str:
    return (
        f"the edge belongs to session {edge[:40]}, this cloud to session {cloud}: their halves "
        "were not trained together. Bring back the cloud's folder (--out), or start the edge again "
        "(--overwrite)"
    )


@final
class Server:
    """The service on a port, in a thread of its own."""

    def __init__(self, service: Service, limits: Limits):
        self._service, self._limits = service, limits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eaves-server")
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self._tidying: asyncio.Task[None] | None = None

    def start(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listen; return the port.

        Raises:
            ConfigError: the address cannot be had.
        """
        try:
            expect_free(address)
        except ConfigError:
            self._loop.close()
            raise
        self._thread.start()
        try:
            port: int = self._call(self._start(address, credentials))
            return port
        except RuntimeError as error:
            self.stop()
            raise ConfigError(_cannot_listen(address)) from error

    async def _start(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        limits = self._limits
        self._health = Health(self._service.shares)
        self._server = grpc.aio.server(
            handlers=[self._service.handlers(), self._health.handlers()],
            options=list(
                server_options(
                    limits.max_message_bytes,
                    handshake_s=limits.handshake_s,
                    ping_s=limits.ping_s,
                    pong_s=limits.pong_s,
                )
            ),
            # Far more than edges can have: who opens more than its share is refused by itself.
            maximum_concurrent_rpcs=8 * (limits.max_edges + limits.max_waiting_queries),
        )
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        self._tidying = asyncio.create_task(self._tidy())
        return int(port)

    async def _tidy(self) -> None:
        """Return memory to the system after much had been received at once."""
        held = self._service.held
        while True:
            await asyncio.sleep(_TICK_S)
            if held.peak > _MUCH_BYTES and held.total < held.peak // 8:
                held.peak = held.total
                await asyncio.to_thread(return_freed_memory)

    def drain(self) -> None:
        """Admit no more edges; those who are in stay."""
        self._service.stopping = True
        if self._health is not None:
            self._loop.call_soon_threadsafe(self._health.stop)

    def stop(self, grace_s: float = 1.0) -> None:
        """End all streams and the thread."""
        self._service.stopping = True
        if self._server is not None:
            self._call(self._stop(grace_s))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self, grace_s: float) -> None:
        assert self._server is not None
        self._service.end_all()
        await self._server.stop(grace_s)
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def expect_free(address: str) -> None:
    """Raise a :class:`ConfigError` where an address cannot be had.

    gRPC would write a line of its own to the standard error stream, past every log.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
    problems = [problem for entry in found if (problem := _bound(entry[0], entry[4])) is not None]
    if len(problems) == len(found):
        raise ConfigError(_cannot_listen(address)) from problems[0]


def _bound(family: int, where: Any) -> OSError | None:
    """Return why a socket cannot be bound there; None where it can."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
            probe.bind(where)
    except OSError as error:
        return error
    return None


def _cannot_listen(address: str) -> str:
    return (
        f"cannot listen on {address}: is the port in use, or the address of another machine? "
        "Choose another --listen"
    )
