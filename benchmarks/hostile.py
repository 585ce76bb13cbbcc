"""One hostile edge beside nine honest ones: what the honest ones notice of each attack.

    python -m benchmarks.hostile [--attack NAME ...] [--seconds 10] [--repeat 1] [--json FILE]

A real `eaves serve` with TLS and tokens on loopback for each row, and nine edges that train and ask
at a steady rate, all in this process; the hostile one (benchmarks/hostility/attacks.py) is a
process of its own. The row `none` is the undisturbed run, `none-once` that of edges whose uploads
travel once, as in `store-filling`. A row has

receipt      p99 of the time from an upload of an honest edge to its receipt
query        p99 of the time that an honest query takes, and how many had no answer
accuracy     of the cloud's half on the test set, when all honest uploads are learnt from; where
             uploads travel once, when the cloud has learnt on from those it keeps
RSS          the most resident memory of the cloud, and at the end
alive        whether the cloud still served at the end, and ended by SIGTERM with exit code 0

The hostile process needs CPU too, and on few cores takes it from the cloud and the honest edges:
`--nice` (default 10) is how much it gives way; the row `idle-spin` in its place burns as much CPU
and calls nobody, to tell the two apart. With --repeat all rows are measured so often, in turns; a
time is then the median over them with the least and the greatest, accuracy the least, and memory
the most.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import numpy as np
import torch
from benchmarks.hostility.attacks import ATTACKS, OPTIONS, Spec
from benchmarks.served import Served, rss_bytes, write_json
from torch import Tensor

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.upload import pack_upload
from eaves.experiments.halves import edge_job, open_origin
from eaves.network.certificates import make_token
from eaves.network.credentials import device_credentials
from eaves.network.eaves_pb2 import (
    Answer,
    CloudMessage,
    EdgeMessage,
    Finish,
    Hello,
    Query,
    StatusReply,
    StatusRequest,
)
from eaves.network.wire import (
    INFER,
    PROTOCOL,
    STATUS,
    TRAIN,
    pack,
    pack_edge_message,
    pack_terms,
    unpack,
)

HONEST, EDGE_STEPS = 9, 80
BATCH, UPLOADS_PER_S, QUERIES_PER_S = 32, 6.0, 4.0
CONFIG = """
data = "digits"
net = "small"
cut = "conv2"
batch_size = 32
codec = "int8+zstd"
epochs = 2
lr = 0.05
"""
ONCE = CONFIG + 'send = "once"\ncloud_epochs = 4\n'
ONCE_STEPS = 44  # that the digits have, once
IDLE_S = 4.0  # without a step, and the cloud has learnt on
OF_ONCE, UNDISTURBED = ("none-once", "store-filling"), ("none", "none-once")
SPIN = "while True: pass"


@dataclass(frozen=True)
class World:
    """What honest edges send: features of a trained edge half, packed."""

    uploads: list[bytes]
    queries: list[bytes]
    tests: list[tuple[bytes, Tensor]]
    terms: str
    shape: list[int]
    classes: int


@dataclass
class Measured:
    """What honest edges have noticed."""

    receipts_s: list[float] = field(default_factory=list)
    queries_s: list[float] = field(default_factory=list)
    unanswered: int = 0
    broken: list[str] = field(default_factory=list)


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory() as temporary:
        for turn in range(options.repeat):
            for name in options.attack or ["none", "none-once", *ATTACKS]:
                found = measured(Path(temporary) / f"{name}-{turn}", name, options)
                results.setdefault(name, []).append(found)
                print(row(name, [found]), flush=True)
                write_json(options.json, results)
    if options.repeat > 1:
        print("", *(row(name, found) for name, found in results.items()), sep="\n")
    return 0 if all(one["alive"] for found in results.values() for one in found) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["none", "none-once", "idle-spin", *ATTACKS]
    parser.add_argument("--attack", action="append", choices=names, help="by default all")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row, at least")
    parser.add_argument("--repeat", type=int, default=1, help="measurements of each row")
    parser.add_argument("--nice", type=int, default=10, help="of the hostile process")
    parser.add_argument("--json", type=Path, help="write JSON here")
    return parser.parse_args()


def measured(folder: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    # fmt: off
    served = Served(
        folder, ONCE if name in OF_ONCE else CONFIG, "--auth", "tokens",
        "--edges", str(HONEST + (name not in OF_ONCE)), "--store-mb", "20", "--checkpoint-s", "2",
    )
    # fmt: on
    homes = [make_token(served.certs, f"edge-{i}") for i in range(HONEST + 1)]
    world = world_of(folder / "cloud.toml")
    steps = max(EDGE_STEPS, int(UPLOADS_PER_S * options.seconds))
    if name in OF_ONCE:
        steps = ONCE_STEPS
    # fmt: off
    spec = Spec(
        attack=name, address=served.address, folder=str(homes[-1]), terms=world.terms,
        codec="int8+zstd", shape=world.shape, classes=world.classes, batch=BATCH, steps=steps,
    )
    # fmt: on
    with served, Peak(served.pid) as peak:
        with hostile(spec, options.nice):
            time.sleep(0.0 if name in UNDISTURBED else 2.0)
            found = asyncio.run(honest(spec, world, homes[:-1]))
            if name in OF_ONCE:
                asyncio.run(learnt_on(spec, homes[0]))
        accuracy = asyncio.run(accuracy_of(spec, world, homes[0])) if peak.alive() else None
        last = rss_bytes(served.pid) if peak.alive() else 0
        alive = peak.alive() and ends_well(served)
    return {
        "receipt_p99_ms": p99_ms(found.receipts_s),
        "query_p99_ms": p99_ms(found.queries_s),
        "uploads": len(found.receipts_s),
        "queries": len(found.queries_s),
        "unanswered": found.unanswered,
        "broken": found.broken[:3],
        "accuracy": accuracy,
        "rss_peak_mb": peak.most / 1e6,
        "rss_end_mb": last / 1e6,
        "alive": alive,
    }


def ends_well(served: Served) -> bool:
    with suppress(SystemExit, subprocess.TimeoutExpired):
        served.stop()
        return True
    return False


def world_of(path: Path) -> World:
    """Train the edge half a little, and pack what it makes of the data."""
    job, terms = edge_job(open_origin(path))
    codec, generator = parse_codec("int8+zstd"), torch.Generator().manual_seed(0)
    train, test, predictor = job.dataset.train, job.dataset.test, job.method.edge_predictor
    uploads, tests = [], []
    for rows in torch.split(torch.randperm(len(train), generator=generator), BATCH):
        batch = train.fetch(rows)
        features, _ = predictor.predict(batch.inputs)
        assert features is not None
        if len(rows) == BATCH:
            uploads.append(pack_upload(features, batch.labels, codec))
    for rows in torch.split(torch.arange(len(test)), 128):
        batch = test.fetch(rows)
        features, _ = predictor.predict(batch.inputs)
        assert features is not None
        tests.append((codec.encode(features), batch.labels))
    assert features is not None
    queries = [codec.encode(one[None]) for one in features[:16]]
    shape = list(features.shape[1:])
    classes = len(job.dataset.interface.classes)
    return World(uploads, queries, tests, pack_terms(terms), shape, classes)


@contextmanager
def hostile(spec: Spec, niceness: int) -> Iterator[None]:
    if spec.attack in UNDISTURBED:
        yield
        return
    module = ["-c", SPIN] if spec.attack == "idle-spin" else ["-m", "benchmarks.hostility.attacks"]
    process = subprocess.Popen(
        [sys.executable, *module],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.nice(niceness),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(spec)) + "\n")
    process.stdin.flush()
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Peak:
    """The most resident memory of a process (Linux)."""

    def __init__(self, pid: int):
        self._status = Path(f"/proc/{pid}/status")
        self.most = 0.0

    def __enter__(self) -> "Peak":
        return self

    def __exit__(self, *_: object) -> None:
        self.alive()

    def alive(self) -> bool:
        """Whether it runs; takes note of the most."""
        with suppress(OSError):
            lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
            if "VmHWM" in lines and "Z" not in lines["State"]:
                self.most = max(self.most, 1024 * float(lines["VmHWM"].split()[0]))
                return True
        return False


async def honest(spec: Spec, world: World, homes: list[Path]) -> Measured:
    found = Measured()
    edges = [edge(spec, world, home, number, found) for number, home in enumerate(homes)]
    await asyncio.wait_for(asyncio.gather(*edges), 180)
    return found


async def edge(spec: Spec, world: World, home: Path, number: int, found: Measured) -> None:
    """Train at a steady rate, again after a connection that broke; ask meanwhile."""
    over = asyncio.Event()
    asking = asyncio.create_task(ask(spec, world, home, over, found))
    done = 0
    for _ in range(50):
        try:
            done = await trained(spec, world, home, number, found, done)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            found.broken.append(f"{home.name}: {str(error)[:200]}")
        if done >= spec.steps:
            break
        await asyncio.sleep(0.3)
    over.set()
    await asking


def channel_of(spec: Spec, home: Path) -> tuple[grpc.aio.Channel, Any]:
    found = device_credentials(home)
    return grpc.aio.secure_channel(spec.address, found.channel, OPTIONS[:2]), found.metadata


async def trained(
    spec: Spec, world: World, home: Path, number: int, found: Measured, done: int
) -> int:
    """Send what is left; return how many uploads are applied."""
    channel, metadata = channel_of(spec, home)
    async with channel:
        call = channel.stream_stream(TRAIN, pack_edge_message, unpack(CloudMessage))(
            metadata=metadata
        )
        hello = Hello(protocol=PROTOCOL, terms=world.terms, run="honest", steps=spec.steps)
        hello.memory_bytes, hello.version = 2**26, "honest"
        await call.write(EdgeMessage(hello=hello))
        welcome = await asyncio.wait_for(call.read(), 30)
        if welcome is grpc.aio.EOF:
            return done
        sent: dict[int, float] = {}
        sender = asyncio.create_task(send(spec, world, number, call, sent, welcome.welcome.applied))
        try:
            applied = int(welcome.welcome.applied)
            while applied < spec.steps:
                message = await asyncio.wait_for(call.read(), 60)
                if message is grpc.aio.EOF:
                    break
                for seq in range(applied + 1, message.receipt.applied + 1):
                    if seq in sent:
                        found.receipts_s.append(time.monotonic() - sent[seq])
                applied = max(applied, message.receipt.applied)
            if applied >= spec.steps:
                await sender  # what it says last is that this was all
                await asyncio.wait_for(call.read(), 30)
            return applied
        finally:
            sender.cancel()


async def send(
    spec: Spec, world: World, number: int, call: Any, sent: dict[int, float], applied: int
) -> None:
    due = time.monotonic()
    for seq in range(applied + 1, spec.steps + 1):
        due = max(due + 1 / UPLOADS_PER_S, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        sent[seq] = time.monotonic()
        content = world.uploads[(seq + 5 * number) % len(world.uploads)]
        await call.write((seq, seq - 1, content))
    await call.write(EdgeMessage(finish=Finish(seq=spec.steps)))


async def ask(spec: Spec, world: World, home: Path, over: asyncio.Event, found: Measured) -> None:
    channel, metadata = channel_of(spec, home)
    async with channel:
        infer = channel.unary_unary(INFER, pack, unpack(Answer))
        while not over.is_set():
            started = time.monotonic()
            query = Query(protocol=PROTOCOL, payload=world.queries[len(found.queries_s) % 16])
            try:
                await infer(query, metadata=metadata, timeout=10)
                found.queries_s.append(time.monotonic() - started)
            except grpc.aio.AioRpcError:
                found.unanswered += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 1 / QUERIES_PER_S)


async def learnt_on(spec: Spec, home: Path) -> None:
    """Wait until the cloud has had nothing left to learn again for some seconds."""
    channel, metadata = channel_of(spec, home)
    idle = time.monotonic()
    async with channel:
        status = channel.unary_unary(STATUS, pack, unpack(StatusReply))
        while time.monotonic() - idle < IDLE_S:
            reply = await status(StatusRequest(), metadata=metadata, timeout=30)
            idle = time.monotonic() if reply.steps_left else idle
            await asyncio.sleep(0.2)


async def accuracy_of(spec: Spec, world: World, home: Path) -> float | None:
    """Return the accuracy of the cloud in percent."""
    channel, metadata = channel_of(spec, home)
    right = total = 0
    async with channel:
        infer = channel.unary_unary(INFER, pack, unpack(Answer))
        for payload, labels_B in world.tests:
            query = Query(protocol=PROTOCOL, payload=payload)
            try:
                answer = await infer(query, metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError:
                return None
            right += int((decode(answer.payload).argmax(dim=1) == labels_B).sum())
            total += len(labels_B)
    return 100 * right / total


def p99_ms(found: list[float]) -> float:
    return 1e3 * float(np.quantile(found, 0.99)) if found else float("nan")


def row(name: str, found: list[dict[str, Any]]) -> str:
    accuracies = [one["accuracy"] for one in found if one["accuracy"] is not None]
    total = {key: sum(one[key] for one in found) for key in ("uploads", "queries", "unanswered")}
    broken = sum(len(one["broken"]) for one in found)
    return (
        f"{name:<17} receipt p99 {spread(found, 'receipt_p99_ms')} ms ({total['uploads']}), "
        f"query p99 {spread(found, 'query_p99_ms')} ms "
        f"({total['queries']}, {total['unanswered']} unanswered), "
        f"accuracy {min(accuracies, default=float('nan')):5.1f} %, "
        f"RSS {max(one['rss_peak_mb'] for one in found):5.0f} MB, "
        f"at the end {max(one['rss_end_mb'] for one in found):5.0f}, "
        + ("alive" if all(one["alive"] for one in found) else "DEAD")
        + (f", {broken}+ broken streams" if broken else "")
    )


def spread(found: list[dict[str, Any]], key: str) -> str:
    """Return the median, and the least and the greatest where there are several."""
    values = sorted(one[key] for one in found)
    middle = f"{median(values):6.1f}"
    return middle if len(values) == 1 else f"{middle} ({values[0]:.0f}-{values[-1]:.0f})"


if __name__ == "__main__":
    sys.exit(main())
