"""What one hostile edge does to a cloud; each attack goes on until it is killed.

Started by hostile.py as a process of its own, with a line of JSON on its standard input. The edge
has valid credentials in all attacks but those of strangers. Everything stays on loopback.
"""

import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eaves.codecs.base import parse_codec
from eaves.codecs.contract import Layout
from eaves.codecs.payload import Payload
from eaves.codecs.upload import pack_upload
from eaves.network.credentials import device_credentials
from eaves.network.eaves_pb2 import EdgeMessage, Finish, Hello, Query, StatusRequest
from eaves.network.wire import INFER, PROTOCOL, STATUS, TRAIN, pack_edge_message

AT_ONCE = 60  # calls
LARGEST = 60 * 10**6
OPTIONS = (
    ("grpc.max_send_message_length", 2**30),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.lookahead_bytes", 2**16),
    ("grpc.http2.bdp_probe", 0),
)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What hostile.py says."""

    attack: str
    address: str
    folder: str
    """Of the credentials of this edge."""
    terms: str
    codec: str
    shape: list[int]
    """Of the features of one example."""
    classes: int
    batch: int
    steps: int


class Hostile:
    """An edge that says what it likes."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self._found = device_credentials(Path(spec.folder))
        self.metadata = self._found.metadata
        self._numbers = count(1)

    def channel(self) -> grpc.Channel:
        """Return a connection of its own."""
        return grpc.secure_channel(self.spec.address, self._found.channel, OPTIONS)

    def hello(self, run: str = "", **changes: Any) -> bytes:
        usual = {
            "protocol": PROTOCOL,
            "version": "hostile",
            "terms": self.spec.terms,
            "run": run or f"evil{next(self._numbers)}",
            "steps": self.spec.steps,
            "memory_bytes": 2**30,
        }
        return pack_edge_message(EdgeMessage(hello=Hello(**{**usual, **changes})))

    def upload(self, value: float = 0.5, batch: int = 0) -> bytes:
        batch = batch or self.spec.batch
        x = torch.full((batch, *self.spec.shape), value)
        x[..., 0] = 0.0
        labels_B = torch.arange(batch) % self.spec.classes
        return pack_upload(x, labels_B, parse_codec(self.spec.codec))

    def stream(self, channel: grpc.Channel, messages: Iterator[bytes]) -> Any:
        return channel.stream_stream(TRAIN)(messages, metadata=self.metadata)

    def train(self, uploads: Iterator[bytes], **changes: Any) -> None:
        """Send uploads until the cloud ends the stream, and read what it says."""
        with self.channel() as channel, suppress(grpc.RpcError):
            for _ in self.stream(channel, self.messages(uploads, **changes)):
                pass

    def messages(self, uploads: Iterator[bytes], **changes: Any) -> Iterator[bytes]:
        yield self.hello(**changes)
        for seq, content in enumerate(uploads, 1):
            yield pack_edge_message((seq, seq - 1, content))

    def flood(self, path: str, content: bytes, *, metadata: Any = None) -> None:
        """Call without an end, so often at once."""
        words = self.metadata if metadata is None else metadata
        slots = threading.Semaphore(AT_ONCE)
        with self.channel() as channel:
            call = channel.unary_unary(path)
            while True:
                slots.acquire()
                future = call.future(content, metadata=words, timeout=30)
                future.add_done_callback(lambda _: slots.release())

    def ask_for_ever(self, payload: bytes) -> None:
        self.flood(INFER, Query(protocol=PROTOCOL, payload=payload).SerializeToString())


def bare(codec: str, shape: tuple[int, ...], params: bytes = b"", body: bytes = b"") -> bytes:
    return b"".join(Payload(codec, Layout(shape), params, body).parts())


def labelled(content: bytes, labels: int) -> bytes:
    head = b"EAVU" + struct.pack("<BBI", 1, 1, labels) + bytes(labels)
    return head + struct.pack("<I", zlib.crc32(head)) + content


def png_flood(hostile: Hostile) -> bytes:
    file = parse_codec("png").encode(torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    one = Payload.from_bytes(file).body
    images = LARGEST // (len(one) + 4)
    sizes = struct.pack("<I", len(one)) * images
    return labelled(bare("png", (images, 1, 1, 1), sizes, bytes(one) * images), images)


def many_runs(hostile: Hostile) -> None:
    while True:
        with hostile.channel() as channel:
            calls = []
            for _ in range(20):
                calls.append(hostile.stream(channel, iter([hostile.hello()])))
                with suppress(grpc.RpcError, StopIteration):
                    next(calls[-1])


def lies_about_steps(hostile: Hostile) -> None:
    for number in count():
        hostile.train(iter([hostile.upload()]), steps=(1, 2**47)[number % 2])


def checkpoints_without_end(hostile: Hostile) -> None:
    def messages() -> Iterator[bytes]:
        for message in hostile.messages((hostile.upload() for _ in count()), memory_bytes=0):
            yield message
            yield pack_edge_message(EdgeMessage(finish=Finish(seq=1)))

    while True:
        with hostile.channel() as channel, suppress(grpc.RpcError):
            for _ in hostile.stream(channel, messages()):
                pass


def huge_features(hostile: Hostile) -> None:
    while True:
        hostile.train(hostile.upload((-1e9, 1e9)[n % 2]) for n in range(20))


def repeated(make: Callable[[Hostile], bytes]) -> Callable[[Hostile], None]:
    def attack(hostile: Hostile) -> None:
        content = make(hostile)
        while True:
            hostile.train(iter([content] * 20))

    return attack


def bombs(hostile: Hostile) -> None:
    long = struct.pack("<Q", 2**28) + bytes(4)
    hostile.ask_for_ever(bare("raw+range", (2**28,), body=long))


def large_queries(hostile: Hostile) -> None:
    x = torch.rand(256, *hostile.spec.shape)
    hostile.ask_for_ever(parse_codec(hostile.spec.codec).encode(x))


def bad_queries(hostile: Hostile) -> None:
    hostile.ask_for_ever(b"EAVP")


def stranger(hostile: Hostile) -> None:
    query = Query(protocol=PROTOCOL, payload=bytes(LARGEST)).SerializeToString()
    hostile.flood(INFER, query, metadata=())


def many_streams(hostile: Hostile) -> None:
    held: list[Any] = []
    over = threading.Event()

    def silent() -> Iterator[bytes]:
        over.wait(60)
        yield b""

    while True:
        for _ in range(20):
            channel = hostile.channel()
            held.append([hostile.stream(channel, silent()) for _ in range(10)])
        time.sleep(5)
        held = held[-40:]


def superseded(hostile: Hostile) -> None:
    """Streams that read nothing, each of which takes the place of the one before, and go on."""
    held: list[Any] = []
    content = hostile.upload()
    while True:
        channel = hostile.channel()
        uploads = (content for _ in range(10_000))
        held.append((channel, hostile.stream(channel, hostile.messages(uploads))))
        time.sleep(0.2)
        held = held[-50:]


def status_flood(hostile: Hostile) -> None:
    hostile.flood(STATUS, StatusRequest().SerializeToString())


def health_flood(hostile: Hostile) -> None:
    with hostile.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watchers = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=600) for _ in range(50)]
        assert watchers
        hostile.flood("/grpc.health.v1.Health/Check", bytes(2**20), metadata=())


def fill_the_store(hostile: Hostile) -> None:
    content = hostile.upload()
    while True:
        hostile.train(content for _ in range(100_000))


def fill_what_is_kept(hostile: Hostile) -> None:
    """Send all that one edge may, say that this was all, so that the cloud learns on; then more."""
    steps, content = hostile.spec.steps, hostile.upload()

    def messages() -> Iterator[bytes]:
        yield from hostile.messages(content for _ in range(steps))
        yield EdgeMessage(finish=Finish(seq=steps)).SerializeToString()

    with hostile.channel() as channel, suppress(grpc.RpcError):
        for _ in hostile.stream(channel, messages()):
            pass
    fill_the_store(hostile)


ATTACKS: dict[str, Callable[[Hostile], None]] = {
    "many-runs": many_runs,
    "lies-about-steps": lies_about_steps,
    "checkpoints": checkpoints_without_end,
    "huge-features": huge_features,
    "decode-bombs": bombs,
    "png-flood": repeated(png_flood),
    "large-upload": repeated(lambda hostile: hostile.upload(batch=4096)),
    "large-queries": large_queries,
    "bad-queries": bad_queries,
    "no-token": stranger,
    "upload-flood": fill_the_store,
    "store-filling": fill_what_is_kept,  # with a cloud that keeps what travels once
    "many-streams": many_streams,
    "superseded": superseded,
    "status-flood": status_flood,
    "health-flood": health_flood,
}
"""By name. Attacks on what is learnt (random labels, features of many edges) have a place here."""


def main() -> None:
    spec = Spec(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(1)
    hostile = Hostile(spec)
    while True:
        with suppress(grpc.RpcError, ValueError):
            ATTACKS[spec.attack](hostile)


if __name__ == "__main__":
    main()
