"""What the tests of the network share: a cloud in this process, edges, a link that misbehaves."""

import queue
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, final

import grpc
import pytest
import torch
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import pack_upload
from eaves.core.roles import CloudLearner, CloudPredictor, Losses, Upload
from eaves.core.state import State
from eaves.network.certificates import initialise, make_device, make_token
from eaves.network.channel import Target, connect, insecure_target
from eaves.network.credentials import Gate
from eaves.network.eaves_pb2 import CloudMessage, EdgeMessage, Hello, Receipt, Welcome
from eaves.network.group import Alone
from eaves.network.half import Accepts, Half
from eaves.network.keeper import Keeper
from eaves.network.limits import Limits
from eaves.network.server import Server, Service
from eaves.network.spool import Spool
from eaves.network.trainer import Trainer
from eaves.network.uplink import Enrolment, Uplink
from eaves.network.wire import PROTOCOL, TRAIN, pack_edge_message, pack_terms, unpack

TERMS: Final = {"method": "noting", "cut": "c"}
FP32: Final = parse_codec("fp32")
VALUES: Final = 4
ANY: Final = Accepts(feature_shape=(VALUES,), dtype=torch.float32, classes=2**31)
PATIENCE_S: Final = 20.0  # of a test, for what takes far less unless the machine is overloaded
FAST: Final = Limits(hello_s=0.4, handshake_s=1.0, ping_s=0.4, pong_s=0.4)


def wait_until(holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    """Return whether ``holds`` came true within ``timeout_s``."""
    until = monotonic() + timeout_s
    while not holds():
        if monotonic() > until:
            return False
        sleep(0.01)
    return True


def payload(seq: int, values: int = VALUES) -> bytes:
    """Return the upload ``seq``: one example, labelled with its number."""
    return pack_upload(torch.ones(1, values), torch.tensor([seq]), FP32)


@final
class NotingCloud(CloudLearner):
    """Notes the label of each upload; its state is what it has noted."""

    def __init__(self, reply_values: int = 0):
        self.seen: list[int] = []
        self.step_s = 0.0
        self._reply_values = reply_values

    @property
    def part(self) -> None:
        return

    def step(self, upload: Upload) -> tuple[Tensor | None, Losses]:
        sleep(self.step_s)
        self.seen += upload.labels.tolist()
        if not self._reply_values:
            return None, {"loss": 1.0}
        return torch.full((1, self._reply_values), float(self.seen[-1])), {"loss": 1.0}

    def state(self) -> State:
        return State({}, {"seen": list(self.seen)})

    def load_state(self, state: State) -> None:
        self.seen = list(state.facts["seen"])


@final
class Doubling(CloudPredictor):
    """Answers with twice what it was asked; 13 brings it bad luck."""

    def answer(self, features: Tensor) -> Tensor:
        return 2 * features / (features != 13)


@final
class Cloud:
    """A cloud in this process that can be stopped, and started again on the same port."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits = FAST,
        gate: Gate | None = None,
        credentials: grpc.ServerCredentials | None = None,
        every_s: float = 0.05,
        reply_values: int = 0,
        accepts: Accepts = ANY,
    ):
        self._accepts = accepts
        self._folder, self.limits, self._every_s = folder, limits, every_s
        self._gate, self._credentials = gate or Gate(None), credentials
        self._reply_values = reply_values
        self.port, self.running = 0, False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def seen(self) -> list[int]:
        return self.learner.seen

    def start(self) -> "Cloud":
        self.learner = NotingCloud(self._reply_values)
        half = Half(
            learner=self.learner,
            predictor=Doubling(),
            accepts=self._accepts,
            reply_codec=FP32,
        )
        self._keeper = Keeper(self._folder, pack_terms(TERMS), every_s=self._every_s)
        self.trainer = Trainer(half, self._keeper, Alone())
        self.service = Service(self.trainer, self._gate, TERMS, self.limits, version="1.2.3")
        self.server = Server(self.service, self.limits)
        self.port = self.server.start(f"127.0.0.1:{self.port}", self._credentials)
        self.worker = threading.Thread(target=self.trainer.run, name="eaves-trainer")
        self.worker.start()
        # All threads are there from now on, for tests that count them.
        assert wait_until(lambda: any("opener-3" in t.name for t in threading.enumerate()))
        self.running = True
        return self

    def stop(self) -> None:
        """End as `eaves serve` does: what waits is learnt, kept, and the edges are told."""
        if self.running:
            self.running = False
            self.server.drain()
            self._end_trainer()
            self.server.stop()

    def _end_trainer(self) -> None:
        self.trainer.stop()
        self.worker.join()
        self._keeper.close()

    def crash(self, kept: Path) -> None:
        """End without a word to the edges, and with ``kept`` as the checkpoint."""
        self.running = False
        self.server.stop(0.0)
        self._end_trainer()
        shutil.rmtree(self._folder)
        shutil.copytree(kept, self._folder)

    close = stop


@final
class Caller:
    """An edge that says whatever a test wants, over a real connection."""

    def __init__(self, target: Target, options: Sequence[tuple[str, int]] | None = None):
        self._channel = (
            grpc.insecure_channel(target.address, options) if options else connect(target)
        )
        self._out: queue.SimpleQueue[EdgeMessage | tuple[int, int, bytes] | bytes | None]
        self._out = queue.SimpleQueue()
        method = self._channel.stream_stream(TRAIN, _packed, unpack(CloudMessage))
        self.call: Any = method(iter(self._out.get, None), metadata=target.metadata)

    def send(self, message: EdgeMessage | tuple[int, int, bytes] | bytes) -> None:
        self._out.put(message)

    def upload(self, seq: int, follows: int | None = None, content: bytes | None = None) -> None:
        follows = seq - 1 if follows is None else follows
        self.send((seq, follows, payload(seq) if content is None else content))

    def enter(self, **changes: Any) -> Welcome:
        """Say hello, and return the welcome."""
        self.send(EdgeMessage(hello=hello(**changes)))
        message: CloudMessage = next(self.call)
        assert message.WhichOneof("kind") == "welcome"
        return message.welcome

    def receipt_of(self, seq: int) -> Receipt:
        """Return the first receipt that says that ``seq`` was applied."""
        found: Receipt = next(m.receipt for m in self.call if m.receipt.applied >= seq)
        return found

    def refusal(self) -> tuple[str, str]:
        """Return how the cloud ends the call: a status and its words."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def close(self) -> None:
        self._out.put(None)
        self.call.cancel()
        self._channel.close()


def _packed(message: EdgeMessage | tuple[int, int, bytes] | bytes) -> bytes:
    return message if isinstance(message, bytes) else pack_edge_message(message)


def hello(**changes: Any) -> Hello:
    """Return the hello of a run that this cloud takes, but for ``changes``."""
    usual = {
        "protocol": PROTOCOL,
        "version": "1.2.3",
        "terms": pack_terms(TERMS),
        "run": "run1",
        "steps": 100,
        "memory_bytes": 2**20,
    }
    return Hello(**{**usual, **changes})


@final
class Edge:
    """A spool and its uplink."""

    def __init__(self, target: Target, path: Path, **changes: Any):
        """Of ``changes``, those that are no part of an :class:`Enrolment` are of the uplink."""
        usual = {"version": "1.2.3", "terms": pack_terms(TERMS), "run": "run1", "session": ""}
        sizes = {"steps": 100, "memory_bytes": 2**20}
        theirs = {**usual, **sizes, **{k: v for k, v in changes.items() if k in (*usual, *sizes)}}
        rest = {"max_backoff_s": 0.2} | {k: v for k, v in changes.items() if k not in theirs}
        self.spool = Spool(
            path, limit_bytes=2**30, memory_bytes=2**30, when_full="block", keep_through=0
        )
        self.uplink = Uplink(target, self.spool, Enrolment(**theirs), **rest)

    @property
    def status(self) -> Any:
        return self.uplink.status

    def put(self, *numbers: int) -> None:
        for seq in numbers:
            self.spool.put(seq, payload(seq), 1, stop=threading.Event())

    def finish(self, last: int) -> None:
        """Say that ``last`` was the last, and wait until all is durable."""
        self.uplink.finish(last)
        assert wait_until(lambda: self.uplink.done), self.status
        assert self.uplink.error is None
        assert self.uplink.delivered

    def close(self) -> None:
        self.uplink.close()
        self.spool.close()


@final
class Proxy:
    """A TCP link between edge and cloud that can drop, stall, freeze, delay, cut, and return."""

    def __init__(self, to_port: int):
        self._to, self.delay_s = to_port, 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._up, self._closing = threading.Event(), False
        self._flowing = threading.Event()
        self._up.set()
        self._flowing.set()
        self._swallows = False
        self._left_bytes: int | None = None
        self._ends: list[socket.socket] = []
        self._threads = [self._thread(self._accept)]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Hang up on everybody, and on all who come."""
        self._up.clear()
        self.hang_up()

    def hang_up(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            _shut(end)

    def cut_after(self, up_bytes: int) -> None:
        """Hang up in the middle of what is sent, that many bytes from now."""
        self._left_bytes = up_bytes

    def stall(self) -> None:
        """Swallow bytes; a connection that has lost some stays dead when the link returns."""
        self._swallows = True

    def freeze(self) -> None:
        """Hold back all bytes until the link returns."""
        self._flowing.clear()

    def restore(self) -> None:
        """Be a good link again, for new connections and for those that were frozen."""
        self._swallows = False
        self._up.set()
        self._flowing.set()

    def close(self) -> None:
        self._closing = True
        self.restore()
        self._listener.close()
        self._threads[0].join()  # nobody comes in any more
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def _thread(self, body: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=body, args=args, name="proxy", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._closing:
            with suppress(OSError):
                edge = self._listener.accept()[0]
                edge.settimeout(None)
                self._ends.append(edge)
                if self._up.is_set():
                    self._join(edge)
                else:
                    _shut(edge)

    def _join(self, edge: socket.socket) -> None:
        try:
            cloud = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            _shut(edge)
            return
        self._ends.append(cloud)
        pair = (edge, cloud)
        swallowed = threading.Event()
        self._threads += [
            self._thread(self._pump, pair, swallowed, True),
            self._thread(self._pump, pair, swallowed, False),
        ]

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], swallowed: threading.Event, up: bool
    ) -> None:
        source, to = pair if up else pair[::-1]
        with suppress(OSError):
            while data := source.recv(2**16):
                self._flowing.wait()
                sleep(self.delay_s)
                if self._swallows:
                    swallowed.set()
                if swallowed.is_set():
                    continue
                if up and self._left_bytes is not None:
                    data, self._left_bytes = data[: self._left_bytes], self._left_bytes - len(data)
                    if self._left_bytes < 0:
                        self._left_bytes = None
                        to.sendall(data)
                        break
                to.sendall(data)
        if not swallowed.is_set() or self._closing:
            _shut(source)
            _shut(to)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


# Fixtures: what is opened is closed, the last first, and nothing is left of it


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Close what a test enters; afterwards no thread of ours is left."""
    before = set(threading.enumerate())
    with ExitStack() as stack:
        yield stack
    ours = ("eaves-", "proxy")

    def left() -> list[str]:
        now = set(threading.enumerate()) - before
        return [t.name for t in now if t.name.startswith(ours)]

    assert wait_until(lambda: not left(), 2.0), left()


@pytest.fixture
def cloud_of(opened: ExitStack, tmp_path: Path) -> Callable[..., Cloud]:
    """Return a function that starts a cloud."""
    return lambda **kinds: opened.enter_context(closing(Cloud(tmp_path / "cloud", **kinds).start()))


@pytest.fixture
def proxy_of(opened: ExitStack) -> Callable[[Cloud], Proxy]:
    """Return a function that lays a link to a cloud."""
    return lambda cloud: opened.enter_context(closing(Proxy(cloud.port)))


@pytest.fixture
def caller_of(opened: ExitStack) -> Callable[..., Caller]:
    """Return a function that calls what is at an address, or a target, in plaintext."""

    def call(where: str | Target, name: str = "edge-1", **kinds: Any) -> Caller:
        target = insecure_target(where, name) if isinstance(where, str) else where
        return opened.enter_context(closing(Caller(target, **kinds)))

    return call


@pytest.fixture
def edge_of(opened: ExitStack, tmp_path: Path) -> Callable[..., Edge]:
    """Return a function that makes an edge for an address, or a target; it is not started."""

    def make(where: str | Target, name: str = "edge-1", **changes: Any) -> Edge:
        target = insecure_target(where, name) if isinstance(where, str) else where
        target = replace(target, ping_s=FAST.ping_s, pong_s=FAST.pong_s)
        path = tmp_path / f"spool-{name}-{changes.get('run', 'run1')}.db"
        return opened.enter_context(closing(Edge(target, path, **changes)))

    return make


@pytest.fixture(scope="session")
def made_certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return credentials of an authority, and a stranger's. Not to be changed."""
    root = tmp_path_factory.mktemp("certs")
    initialise(root / "ours", ["localhost", "127.0.0.1"])
    make_device(root / "ours", "edge-1")
    make_token(root / "ours", "edge-2")
    initialise(root / "foreign", ["localhost", "127.0.0.1"])
    make_device(root / "foreign", "edge-1")
    return root


@pytest.fixture
def certs(made_certs: Path, tmp_path: Path) -> Path:
    """Return a copy of the credentials, to be changed."""
    return Path(shutil.copytree(made_certs, tmp_path / "certs"))
