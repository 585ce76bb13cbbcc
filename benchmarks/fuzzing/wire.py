"""Targets that take messages: the parsers, the terms, the whole service, the edge's uplink."""

import json
import logging
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar, final
from unittest.mock import patch

import grpc
from benchmarks.fuzzing import mutate
from benchmarks.fuzzing.contract import (
    MIB,
    Target,
    by_content,
    expect,
    expect_words,
    joined,
    one_part,
    parted,
)
from benchmarks.fuzzing.payloads import SHAPE, example, small_half, upload
from google.protobuf.message import Message

from eaves.errors import ConfigError, EavesError, PayloadError
from eaves.network import uplink
from eaves.network.channel import insecure_target
from eaves.network.credentials import Gate
from eaves.network.eaves_pb2 import (
    Answer,
    CloudMessage,
    EdgeMessage,
    Finish,
    Hello,
    Query,
    Receipt,
    StatusReply,
    StatusRequest,
    Welcome,
)
from eaves.network.group import Alone
from eaves.network.keeper import Keeper
from eaves.network.limits import Limits
from eaves.network.server import Server, Service
from eaves.network.spool import Spool
from eaves.network.trainer import Trainer
from eaves.network.uplink import Enrolment, Uplink
from eaves.network.wire import (
    INFER,
    PROTOCOL,
    STATUS,
    TRAIN,
    expect_same_terms,
    pack_edge_message,
    pack_terms,
    unpack,
    unpack_terms,
)

TERMS = {"method": "hierarchical", "net": "small", "cut": None, "classes": ["a", "b"], "shape": [1]}
_STEPS = 100
_message = mutate.protobuf(by_content)


def hello(**changes: Any) -> bytes:
    """Return a valid first message."""
    values = {"protocol": PROTOCOL, "version": "1", "terms": pack_terms(TERMS), "run": "ab12"}
    found = Hello(**{**values, "session": "", "steps": _STEPS, "memory_bytes": 2**20, **changes})
    return EdgeMessage(hello=found).SerializeToString()


def _upload(seq: int, payload: bytes) -> bytes:
    return pack_edge_message((seq, seq - 1, payload))


@final
class Messages(Target):
    """Every kind of message, as the two ends parse it."""

    name: ClassVar[str] = "messages"
    allowed: ClassVar = ()
    _kinds: ClassVar[Sequence[type[Message]]] = (
        EdgeMessage,
        CloudMessage,
        Query,
        Answer,
        StatusRequest,
        StatusReply,
    )

    def seeds(self) -> Sequence[bytes]:
        return [
            hello(),
            _upload(3, upload()),
            EdgeMessage(finish=Finish(seq=9)).SerializeToString(),
            Query(protocol=1, session="s", payload=example("fp32")).SerializeToString(),
            CloudMessage(welcome=Welcome(session="s", applied=3)).SerializeToString(),
            CloudMessage(receipt=Receipt(applied=3, reply=b"x")).SerializeToString(),
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return _message(rng, data)

    def run(self, data: bytes) -> str:
        found = [unpack(kind)(data) for kind in self._kinds]
        first = found[0]
        if isinstance(first, EdgeMessage) and first.WhichOneof("kind") == "upload":
            one = first.upload
            again = EdgeMessage.FromString(pack_edge_message((one.seq, one.follows, one.payload)))
            same = (again.upload.seq, again.upload.payload) == (one.seq, one.payload)
            expect(same and again.upload.follows == one.follows, "packed as something else")
        return "a message" if any(message is not None for message in found) else "none"


@final
class AgreedTerms(Target):
    """The terms of an edge, compared with the cloud's."""

    name: ClassVar[str] = "terms"
    allowed: ClassVar = (ConfigError, PayloadError)

    def seeds(self) -> Sequence[bytes]:
        return [pack_terms(TERMS).encode(), json.dumps({"net": "x"}).encode()]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return mutate.json_values(rng, data)

    def run(self, data: bytes) -> str:
        try:
            expect_same_terms(unpack_terms(data.decode(errors="replace")), TERMS)
        except (ConfigError, PayloadError) as error:
            expect_words(str(error))
            raise
        return "the same"


@final
class _Errors(logging.Handler):
    """Keeps what asyncio and gRPC log as errors: exceptions that nobody has caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()} {record.exc_info or ''}"[:300])


@final
class Refused(Exception):  # noqa: N818 - as it should be
    """The service ended a call, with a status that is its to give."""


@final
class WholeService(Target):
    """Calls to a cloud over gRPC: first the method (T, I or S), then its messages."""

    name: ClassVar[str] = "service"
    allowed: ClassVar = (Refused,)
    _codes: ClassVar = (
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
    )

    def __init__(self) -> None:
        self._folder, self._errors = tempfile.TemporaryDirectory(), _Errors()
        logging.getLogger("asyncio").addHandler(self._errors)
        logging.getLogger("grpc").addHandler(self._errors)
        self._keeper = Keeper(Path(self._folder.name), pack_terms(TERMS), every_s=1e6)
        self._trainer = Trainer(small_half(), self._keeper, Alone())
        self._worker = threading.Thread(target=self._trainer.run, daemon=True)
        self._worker.start()
        limits = Limits()
        self._server = Server(Service(self._trainer, Gate(None), TERMS, limits), limits)
        port = self._server.start("127.0.0.1:0", None)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._runs = 0

    def seeds(self) -> Sequence[bytes]:
        payload, features = upload("fp32", 2), example("int8", (2, *SHAPE))
        finish = EdgeMessage(finish=Finish(seq=2)).SerializeToString()
        query = Query(protocol=PROTOCOL, payload=features).SerializeToString()
        return [
            joined([b"T", hello(), _upload(1, payload), _upload(2, payload), finish]),
            joined([b"T", hello(session=""), _upload(1, payload)]),
            joined([b"I", query]),
            joined([b"S", b""]),
        ]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        method, *messages = parted(data) or [b"T"]
        if not messages or rng.random() < 0.1:
            rng.shuffle(messages)
            return joined([rng.choice((method, b"T", b"I", b"S")), *messages])
        return joined([method, *parted(one_part(_message)(rng, joined(messages)))])

    def run(self, data: bytes) -> str:
        method, *messages = parted(data) or [b""]
        self._runs += 1
        try:
            answers = self._call(method, messages)
        except grpc.RpcError as error:
            words = str(error.details())
            if error.code().name not in self._codes:
                expect(False, f"status {error.code().name}: {words[:100]}")
            expect_words(words)
            raise Refused(f"{error.code().name} {words}") from error
        finally:
            said, self._errors.said = self._errors.said, []
            expect(not said, f"logged {said[:1]}")
            expect(self._worker.is_alive(), "the trainer has died")
        return f"{answers} answers" if answers < 3 else "answers"

    def _call(self, method: bytes, messages: list[bytes]) -> int:
        # An edge of its own for each: what the one has sent is nothing to the next.
        metadata = (("eaves-edge", f"edge{self._runs}"),)
        if method == b"T":
            call = self._channel.stream_stream(TRAIN, _as_is, _as_is)
            return len(list(call(iter(messages), metadata=metadata, timeout=20)))
        path = INFER if method == b"I" else STATUS
        ask = self._channel.unary_unary(path, _as_is, _as_is)
        ask(messages[0] if messages else b"", metadata=metadata, timeout=20)
        return 1

    def close(self) -> None:
        self._channel.close()
        self._server.stop(0.1)
        self._trainer.stop()
        self._worker.join()
        self._keeper.close()
        self._folder.cleanup()
        for name in ("asyncio", "grpc"):
            logging.getLogger(name).removeHandler(self._errors)


def _as_is(message: bytes) -> bytes:
    return message


@final
class _Over(grpc.RpcError):  # type: ignore[misc]
    """The end of a call, after which an edge gives up."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def details(self) -> str:
        return "over"


@final
class _Channel:
    """A channel with one call, in which these messages come down."""

    def __init__(self, messages: Sequence[bytes]):
        self._messages = messages
        self._parse: Callable[[bytes], Message | None] = unpack(CloudMessage)

    def __enter__(self) -> "_Channel":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing has to end."""

    def stream_stream(
        self, _path: str, _pack: object, parse: Callable[[bytes], Message | None]
    ) -> "Callable[..., _Channel]":
        self._parse = parse
        return lambda _outgoing, metadata: self

    def cancel(self) -> None:
        """Nothing has to end."""

    def __iter__(self) -> Iterator[Message]:
        for content in self._messages:
            message = self._parse(content)
            if message is None:  # gRPC ends the call
                break
            yield message
        raise _Over


@final
class Receipts(Target):
    """What a cloud sends to an edge, which must still be able to write its spool afterwards."""

    name: ClassVar[str] = "uplink"
    allowed: ClassVar = (EavesError,)

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._spool: Spool | None = None

    def seeds(self) -> Sequence[bytes]:
        down = [
            CloudMessage(welcome=Welcome(session="s", applied=0, max_message_bytes=2**20)),
            CloudMessage(receipt=Receipt(applied=3, durable=2)),
            CloudMessage(receipt=Receipt(applied=4, durable=4, reply=example("fp16"))),
        ]
        return [joined([message.SerializeToString() for message in down])]

    def mutate(self, rng: random.Random, data: bytes) -> bytes:
        return one_part(mutate.protobuf(by_content))(rng, data)

    def run(self, data: bytes) -> str:
        path = Path(self._folder.name) / "spool.db"
        for old in Path(self._folder.name).iterdir():
            old.unlink()
        enrolment = Enrolment(
            version="1", terms="{}", run="r", session="", steps=_STEPS, memory_bytes=MIB
        )
        spool = Spool(path, limit_bytes=MIB, memory_bytes=MIB, when_full="block", keep_through=0)
        try:
            for seq in range(1, 6):
                spool.put(seq, b"x" * seq, 1, stop=threading.Event())
            target = insecure_target("localhost:7443", "edge")
            link = Uplink(target, spool, enrolment, max_backoff_s=0.01, reply_bytes=MIB)
            link._highest_sent = 5  # of these: they are not asked for here
            link.finish(5)
            died = self._followed(link, parted(data))
            spool.persist()
            expect(spool.status().highest <= _STEPS, "the spool will take nothing more")
        finally:
            spool.close()
        if died is not None:
            raise died
        if link.error is not None and "over" not in str(link.error):
            raise link.error
        if link.status.violations:
            return "a violation"
        return "an end" if link.error else "all is durable"

    def _followed(self, link: Uplink, messages: Sequence[bytes]) -> BaseException | None:
        """Let the uplink hear these messages; return what it died of."""
        died: list[BaseException] = []
        channels = [_Channel(messages)]  # later ones end at once
        with (
            patch.object(uplink, "connect", lambda _: channels.pop() if channels else _Channel([])),
            patch.object(threading, "excepthook", lambda e: died.append(e.exc_value)),
        ):
            link.start()
            until = monotonic() + 1.5
            while not link.done and monotonic() < until:
                sleep(0.0005)
            link.close()
        return died[0] if died else None

    def close(self) -> None:
        self._folder.cleanup()
