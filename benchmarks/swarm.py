"""Many light edges in one process: they speak eaves.proto, and no torch is in them.

Started by load.py, which writes commands to it and reads answers from it, both as lines of JSON:

    {"do": "connect"}                                every edge connects and sends one upload
    {"do": "closed", "seconds": 10, "depth": 4}      each active edge keeps 4 uploads on their way
    {"do": "open", "seconds": 600, "rate": 100.0}    uploads at random (Poisson) to active edges
    {"do": "finish"}                                 wait until all is durable in the cloud

Upload n of an edge is payload n modulo their number, so that what was sent can be sent again after
a broken connection. A latency runs from the moment that an edge has made an upload to the moment
that it reads the receipt which says that this upload is applied.
"""

import asyncio
import json
import random
import sys
from array import array
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from eaves.network.credentials import device_credentials
from eaves.network.eaves_pb2 import CloudMessage, EdgeMessage, Finish, Hello
from eaves.network.wire import (
    PROTOCOL,
    TRAIN,
    channel_options,
    pack_edge_message,
    unpack,
)

AT_ONCE = 16  # handshakes
LONGEST_BACKOFF_S = 2.0
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What load.py says at the start."""

    address: str
    folders: list[str]
    """Of the credentials, one for each edge."""
    payloads: list[str]
    """Files."""
    terms: str
    steps: int
    """Uploads that each edge announces."""
    active: int
    turn_s: float
    """How long an edge is active before another takes its place."""
    seed: int


@dataclass(eq=False)
class Edge:
    """One edge: what it has made, and how much of that the cloud has."""

    folder: Path
    made: int = 0
    applied: int = 0
    durable: int = 0
    connections: int = 0
    finishing: bool = False
    unanswered: deque[tuple[int, float]] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def make(self) -> None:
        """Make an upload: it goes out as soon as the connection takes it."""
        self.made += 1
        self.unanswered.append((self.made, monotonic()))
        self.news.set()


class Swarm:
    """The edges, and what they have measured."""

    def __init__(self, spec: Spec):
        self._spec, self._random = spec, random.Random(spec.seed)
        self._payloads = [Path(name).read_bytes() for name in spec.payloads]
        self.edges = [Edge(Path(folder)) for folder in spec.folders]
        self.latencies_s, self.lags_s = array("d"), array("d")
        self.problems: list[str] = []
        self._welcomed, self._handshakes = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
        self._began, self._depth = 0.0, 0  # of closed loop; 0: none
        self._tasks: list[asyncio.Task[None]] = []

    # What load.py asks for

    async def connect(self) -> dict[str, Any]:
        started = monotonic()
        for edge in self.edges:
            edge.make()
        self._tasks = [asyncio.create_task(self._live(edge)) for edge in self.edges]
        await self._until(lambda edge: edge.applied == edge.made)
        return self._answer(monotonic() - started)

    async def closed(self, seconds: float, depth: int) -> dict[str, Any]:
        before, self._began, self._depth = self._applied(), monotonic(), depth
        while monotonic() < self._began + seconds:
            for edge in self._active():
                self._fill(edge)
            await asyncio.sleep(0.1)
        wall_s, applied = monotonic() - self._began, self._applied() - before
        self._depth = 0
        await self._until(lambda edge: edge.applied == edge.made)
        return {**self._answer(wall_s), "applied": applied}

    async def open(self, seconds: float, rate: float) -> dict[str, Any]:
        self._began = due = monotonic()
        while (due := due + self._random.expovariate(rate)) < self._began + seconds:
            if (early_s := due - monotonic()) > 0:
                await asyncio.sleep(early_s)
            self.lags_s.append(monotonic() - due)
            self._random.choice(self._active()).make()
        wall_s = monotonic() - self._began
        await self._until(lambda edge: edge.applied == edge.made)
        return self._answer(wall_s)

    async def finish(self) -> dict[str, Any]:
        started = monotonic()
        for edge in self.edges:
            edge.finishing = True
            edge.news.set()
        await self._until(lambda edge: edge.durable == edge.made)
        answer = self._answer(monotonic() - started)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return {**answer, "made": {edge.folder.name: edge.made for edge in self.edges}}

    def _answer(self, wall_s: float) -> dict[str, Any]:
        """Return what was measured since the last answer."""
        answer = {
            "wall_s": wall_s,
            "latencies_s": list(self.latencies_s),
            "lags_s": list(self.lags_s),
            "connections": sum(edge.connections for edge in self.edges),
            "problems": self.problems[-3:],
        }
        self.latencies_s, self.lags_s = array("d"), array("d")
        return answer

    def _applied(self) -> int:
        return sum(edge.applied for edge in self.edges)

    def _active(self) -> list[Edge]:
        """Return the edges whose turn it is: a window that wanders through all of them."""
        active = min(self._spec.active, len(self.edges))
        first = int((monotonic() - self._began) / self._spec.turn_s * active)
        return [self.edges[(first + i) % len(self.edges)] for i in range(active)]

    def _fill(self, edge: Edge) -> None:
        for _ in range(self._depth - (edge.made - edge.applied)):
            edge.make()

    async def _until(self, reached: Any) -> None:
        deadline = monotonic() + PATIENCE_S
        while not all(map(reached, self.edges)):
            if monotonic() > deadline:
                raise SystemExit(f"no end after {PATIENCE_S:g} s; {self.problems[-3:]}")
            for task in self._tasks:
                if task.done():  # with an error that nobody expects
                    task.result()
            await asyncio.sleep(0.05)

    # The connection of one edge

    async def _live(self, edge: Edge) -> None:
        backoff_s = 0.25
        while True:
            try:
                await self._talk(edge)
            except grpc.aio.AioRpcError as error:
                self.problems.append(f"{edge.folder.name}: {error.code().name} {error.details()}")
            await asyncio.sleep(random.uniform(0, backoff_s))
            backoff_s = min(LONGEST_BACKOFF_S, 2 * backoff_s)

    async def _talk(self, edge: Edge) -> None:
        found = device_credentials(edge.folder)
        options = channel_options()
        async with grpc.aio.secure_channel(self._spec.address, found.channel, options) as channel:
            method = channel.stream_stream(TRAIN, pack_edge_message, unpack(CloudMessage))
            async with self._handshakes:
                call = method(metadata=found.metadata)
                await call.write(EdgeMessage(hello=self._hello(edge)))
                welcome = await call.read()
            if welcome is grpc.aio.EOF:
                return
            edge.connections += 1
            writer = asyncio.create_task(self._write(edge, call, welcome.welcome.applied))
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    self._take(edge, message.receipt)
            finally:
                writer.cancel()

    async def _write(self, edge: Edge, call: Any, cursor: int) -> None:
        finished = False
        while True:
            edge.news.clear()
            while cursor < edge.made:
                payload = self._payloads[(cursor + 1) % len(self._payloads)]
                await call.write((cursor + 1, cursor, payload))
                cursor += 1
            if edge.finishing and not finished:
                await call.write(EdgeMessage(finish=Finish(seq=edge.made)))
                finished = True
            await edge.news.wait()

    def _take(self, edge: Edge, receipt: Any) -> None:
        now = monotonic()
        edge.applied = max(edge.applied, receipt.applied)
        edge.durable = max(edge.durable, receipt.durable)
        while edge.unanswered and edge.unanswered[0][0] <= edge.applied:
            self.latencies_s.append(now - edge.unanswered.popleft()[1])
        if self._depth and edge in self._active():
            self._fill(edge)

    def _hello(self, edge: Edge) -> Hello:
        return Hello(
            protocol=PROTOCOL,
            version="swarm",
            terms=self._spec.terms,
            run=f"run{edge.folder.name.rpartition('-')[2]}",
            steps=self._spec.steps,
            memory_bytes=64 * 2**20,
        )


async def main() -> None:
    swarm = Swarm(Spec(**json.loads(sys.stdin.readline())))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        act = getattr(swarm, order.pop("do"))
        print(json.dumps(await act(**order)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
