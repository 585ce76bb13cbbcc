"""What edges may ask of a cloud, and what each of them has in progress."""

import asyncio
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final, final

from eaves.errors import ConfigError
from eaves.network.line import Pace
from eaves.network.refusals import BusyError
from eaves.network.wire import MAX_MESSAGE_BYTES, PING_S, PONG_S

_LOOK_S: Final = 0.02  # how soon room is noticed
_WORK_BYTES: Final = 4096  # of an upload or query around its payload
_DEBT_S: Final = 2.0  # of calls that came too soon; more is forgiven
_LONGEST_PAUSE_S: Final = 1.0
# Queries of one edge that are served at the same time. With all that may wait, a client that asks
# without a pause would have 60 served in one go, and all others wait a tenth of a second for that.
AT_ONCE: Final = 8
_MOST_PAUSED: Final = 64  # calls of one edge
_MOST_KNOWN: Final = 4096  # edges that are away


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What edges may ask of a cloud. Names with ``edge_`` and rates are for each edge."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_edges: int = 1000
    """Open training streams."""
    max_waiting_queries: int = 1024
    max_waiting_bytes: int = 2**30
    """Of uploads and queries that were received and are not dealt with yet."""
    edge_streams: int = 4
    """Also those that a newer one takes the place of, as long as they have not ended."""
    edge_queries: int = 64
    """That wait."""
    edge_bytes: int = 2**27
    """That wait."""
    uploads_per_s: float | None = None
    bytes_per_s: float | None = None
    queries_per_s: float | None = None
    calls_per_s: float = 20.0
    """Connections for training, requests for the status, and calls that are refused. More of them
    have to wait."""
    depth: int = 4
    """Uploads of one edge that wait for the trainer."""
    handshake_s: float = 10.0
    """Who has connected must have said in time how to go on (TLS, HTTP/2),"""
    hello_s: float = 10.0
    """and which edge it is."""
    ping_s: float = PING_S
    pong_s: float = PONG_S

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ConfigError(f"expected {field.name} above 0, got {value}")


@final
class Share:
    """What one edge has in progress, and how fast it may go on. For the event loop."""

    def __init__(self, name: str, limits: Limits):
        self._name, self._limits = name, limits
        self.uploads, self.payloads = Pace(limits.uploads_per_s), Pace(limits.bytes_per_s)
        self._asked = Pace(limits.queries_per_s)
        self._calls = Pace(limits.calls_per_s, debt_s=_DEBT_S)
        self._streams = self._queries = self._paused = 0
        self.turn = asyncio.Semaphore(AT_ONCE)
        """For what is done for one query of this edge, from reading it to its answer."""

    @property
    def idle(self) -> bool:
        """Whether nothing is in progress."""
        return not (self._streams or self._queries or self._paused)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a training stream as long as the context is open; raises :class:`BusyError`."""
        if self._streams >= self._limits.edge_streams:
            raise BusyError(
                f"edge {self._name} has {self._streams} open streams, which is the limit"
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query as long as the context is open; raises :class:`BusyError`."""
        if self._queries >= self._limits.edge_queries:
            raise BusyError(
                f"{self._queries} queries of edge {self._name} are waiting, which is the limit"
            )
        if self._asked.delay_s(1) > 0:
            raise BusyError(f"edge {self._name} asks too often: {self._limits.queries_per_s:g}/s")
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    async def pause(self) -> None:
        """Wait, where too many calls have come; raises :class:`BusyError` where many wait so."""
        if (pause_s := self._calls.delay_s(1)) <= 0:
            return
        if self._paused >= _MOST_PAUSED:
            raise BusyError(f"edge {self._name} calls too often")
        self._paused += 1
        try:
            await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))
        finally:
            self._paused -= 1


@final
class Shares:
    """The shares of all edges, also while an edge is away; of so many that are away at most."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._shares: dict[str, Share] = {}

    def of(self, edge: str) -> Share:
        """Return the share of an edge."""
        if (share := self._shares.pop(edge, None)) is None:
            share = Share(edge, self._limits)
            if len(self._shares) >= _MOST_KNOWN + self._limits.max_edges:
                idle = [name for name, other in self._shares.items() if other.idle]
                for name in idle[: _MOST_KNOWN // 4]:
                    del self._shares[name]
        self._shares[edge] = share  # the last
        return share


@final
class Held:
    """Counts the bytes of work as long as it exists, whoever has it; threads may share it."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._lock = threading.RLock()  # work may be freed while its holder has the lock
        self.total, self.peak = 0, 0
        self._of: dict[str, int] = {}

    def hold(self, edge: str, work: object, payload_bytes: int) -> None:
        """Count ``work`` of an edge until it is freed."""
        size = payload_bytes + _WORK_BYTES
        self._add(edge, size)
        # By its lifetime: no path through the code can forget to give the bytes back.
        weakref.finalize(work, self._add, edge, -size).atexit = False

    def has_room(self, edge: str) -> bool:
        """Whether more may be received from an edge."""
        limits = self._limits
        with self._lock:
            mine = self._of.get(edge, 0)
        return mine < limits.edge_bytes and self.total < limits.max_waiting_bytes

    async def room(self, edge: str) -> None:
        """Wait until :meth:`has_room`."""
        while not self.has_room(edge):
            await asyncio.sleep(_LOOK_S)

    def expect_room(self, edge: str) -> None:
        """Raise a :class:`BusyError` where there is no room."""
        if not self.has_room(edge):
            raise BusyError(f"what has come from edge {edge}, or from all, is not dealt with yet")

    def _add(self, edge: str, size: int) -> None:
        with self._lock:
            self.total += size
            self.peak = max(self.peak, self.total)
            self._of[edge] = self._of.get(edge, 0) + size
            if not self._of[edge]:
                del self._of[edge]
