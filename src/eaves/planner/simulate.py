"""Discrete events: many edges, one shared link or one each, and a cloud that serves in batches.

::

    edge ──► its queue ──► link ──► cloud's queue ──► batch of 1 to max_batch ──► served
    period_s   depth       size/rate   no bound       serve_fixed_s + k * serve_each_s

The simulated clock says how many edges a link or a cloud can bear, which no formula for one edge
does: it knows queues, batches and chance. Imports no torch, and simpy only to simulate.
"""

import random
from array import array
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import ceil, expm1, inf
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from eaves.core.specs import LinkSpec
from eaves.errors import ConfigError

if TYPE_CHECKING:
    from simpy import Environment, Event

Station = Literal["edge", "link", "cloud"]

_SHORTEST_S, _LONGEST_S = 1e-9, 1e9  # within these, sums of times neither overflow nor vanish
_MOST = 10**12  # of anything that is counted


@final
@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Edges of one kind, what they send, and what serves them."""

    edges: int
    """Devices."""
    uploads: int
    """That each of them sends."""
    period_s: float
    """Mean time that an edge works on one upload (its step)."""
    upload_bytes: int
    """Size of each upload, after the codec."""
    link: LinkSpec
    """Its rate and delay upwards, jitter and loss; nothing is sent down."""
    shared_link: bool
    """One link for all edges, or one each."""
    serve_fixed_s: float
    """The cloud serves k uploads together in ``serve_fixed_s + k * serve_each_s``."""
    serve_each_s: float
    max_batch: int = 1
    """Uploads that the cloud serves together, at most."""
    max_wait_s: float = 0.0
    """How long the first upload of a batch waits for others while a worker is free."""
    workers: int = 1
    """Batches that the cloud serves side by side."""
    depth: int = 4
    """Uploads of an edge that may wait for the link, beside the one on it. An edge with one more
    does not begin its next step."""
    poisson: bool = False
    """Uploads come at random moments, all of them equally likely, within ``uploads`` periods, and
    edges never wait for the link: a Poisson process, given how many come."""
    seed: int = 0
    """Of the edges' starts and steps, and of the link's jitter and loss."""

    def __post_init__(self) -> None:
        for name in ("edges", "uploads", "upload_bytes", "max_batch", "workers", "depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= _MOST:
                raise ConfigError(f"expected {name} from 1 to {_MOST:g}, got {value!r}")
        self._expect_seconds("period_s", _SHORTEST_S)
        for name in ("serve_fixed_s", "serve_each_s", "max_wait_s"):
            self._expect_seconds(name, 0.0)
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ConfigError(f"expected a seed from 0 to {2**31 - 1}, got {self.seed!r}")
        upload_s = 8 * self.upload_bytes / self.link.up_bps + self.link.delay_s
        if not upload_s <= _LONGEST_S:
            raise ConfigError(
                f"expected a link that carries {self.upload_bytes} bytes within {_LONGEST_S:g} s, "
                f"got {upload_s:g} s"
            )

    def _expect_seconds(self, name: str, least_s: float) -> None:
        value = getattr(self, name)
        if not (isinstance(value, int | float) and least_s <= value <= _LONGEST_S):
            raise ConfigError(
                f"expected {name} from {least_s:g} to {_LONGEST_S:g} s, got {value!r}"
            )


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one simulated run of a :class:`Fleet` came to; shares are in [0, 1]."""

    duration_s: float
    """From the start until the last upload is served."""
    uploads: int
    """Served: all of them."""
    per_second: float
    """``uploads / duration_s``: a mean that includes the start and the end of the run."""
    edge_busy: float
    """Share of their time that edges work, ``duration_s`` each."""
    link_busy: float
    """Share of time that a link carries bits, the mean over all links."""
    cloud_busy: float
    """Share of time that a worker serves, the mean over all workers."""
    blocked: float
    """Share of their time that edges wait for room in their queue."""
    batch_fill: float
    """Mean number of uploads in a batch."""
    wait_mean_s: float
    """From an upload's arrival at the cloud until its batch starts."""
    latency_mean_s: float
    """From the end of the edge's step until the upload is served."""
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    bottleneck: Station
    """Whose work on all uploads takes longest, were the others instant: the mean edge's steps, the
    mean link's transfers, or the cloud's service in full batches. Not the largest share of the
    three: a cloud that may serve in batches is busy long before it is full."""


def simulate(fleet: Fleet) -> Outcome:
    """Run ``fleet`` on a simulated clock until all uploads are served.

    Steady edges start at random moments within one period, so that they do not all send at once;
    a lone edge starts at 0. Links and the cloud serve first come, first served. A free worker takes
    what there is, up to ``max_batch``, once that many wait or the first has waited ``max_wait_s``.

    The same fleet has the same outcome. Time is linear in uploads but for a logarithm. Memory is
    linear in edges and in uploads that wait, beside 8 bytes for every upload.

    *Not modelled*: replies. *Unlike the runtime*, the cloud's queue has no bound, so a slow cloud
    never holds up a link, and uploads that a jittery link lets overtake are served as they arrive.

    Raises:
        ConfigError: simpy is not installed.

    >>> link = LinkSpec(up_bps=8e6)
    >>> fleet = Fleet(edges=1, uploads=10, period_s=1.0, upload_bytes=2_000_000, link=link,
    ...               shared_link=True, serve_fixed_s=0.25, serve_each_s=0.25)
    >>> outcome = simulate(fleet)
    >>> outcome.duration_s, outcome.bottleneck  # 1 + 2 + 0.5 and then 9 times the slowest
    (21.5, 'link')
    """
    try:
        import simpy
    except ImportError as error:
        raise ConfigError('simulating needs simpy: pip install "eaves[lab]"') from error
    env = simpy.Environment()
    # Two sources of chance, so that another link leaves the edges' draws as they are.
    edges_rng, link_rng = (random.Random(2 * fleet.seed + i) for i in range(2))
    count = 1 if fleet.shared_link else fleet.edges
    links = [_Link(fleet.link, fleet.upload_bytes, link_rng) for _ in range(count)]
    cloud = _Cloud(env, fleet)
    edges = _Edges(env, fleet, edges_rng, cloud)
    for i in range(fleet.edges):
        env.process(edges.run(links[i % count]))
    env.run()
    return _outcome(fleet, edges, links, cloud)


def md1_wait_s(arrivals_per_s: float, service_s: float) -> float:
    """Return the mean wait of an M/D/1 queue: Poisson arrivals, one server, constant service.

    The long-run wait before service, W = rho s / (2 (1 - rho)) with rho the load: what a simulated
    fleet must come to, and a check by hand of whether one link or one cloud bears a load. Source:
    Pollaczek (1930) and Khinchine (1932), with no variance of service.

    Raises:
        ConfigError: a negative number, or a load of 1 or more, where the wait has no limit.

    >>> md1_wait_s(arrivals_per_s=5.0, service_s=0.1)
    0.05
    """
    for name, value in (("arrivals_per_s", arrivals_per_s), ("service_s", service_s)):
        if not 0 <= value < inf:
            raise ConfigError(f"expected {name} of 0 or more, got {value}")
    load = arrivals_per_s * service_s
    if load >= 1:
        raise ConfigError(
            f"expected a load below 1, got {arrivals_per_s:g}/s x {service_s:g} s = {load:g}: "
            "the queue would grow without end"
        )
    return load * service_s / (2 * (1 - load))


@final
class _Link:
    """Serves in order. When an upload starts is known once it is queued, so this needs no event."""

    def __init__(self, spec: LinkSpec, size_bytes: int, rng: random.Random):
        self._spec, self._size_bytes, self._rng = spec, size_bytes, rng
        self._free_at_s = 0.0
        self.busy_s = 0.0

    def send(self, now_s: float) -> tuple[float, float]:
        """Queue an upload; return when its transfer starts and when it arrives."""
        cost = self._spec.transfer(self._size_bytes, rng=self._rng)
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + cost.busy_s
        self.busy_s += cost.busy_s
        return start_s, self._free_at_s + cost.delay_s


@final
class _Cloud:
    """Gathers what arrives into batches and serves them."""

    def __init__(self, env: "Environment", fleet: Fleet):
        self._env, self._fleet = env, fleet
        self._queue: deque[tuple[float, float]] = deque()  # arrived, left the edge's step
        self._idle = fleet.workers
        self._waits = fleet.max_wait_s > 0 and fleet.max_batch > 1
        self.batches = 0
        self.busy_s = 0.0
        self.waited_s = 0.0
        self.done_at_s = 0.0
        self.latencies_s = array("d")

    def arrive(self, left_s: float, _: "Event") -> None:
        """Queue an upload that left its edge's step at ``left_s``."""
        self._queue.append((self._env.now, left_s))
        if self._waits:
            _then(self._env.timeout(self._fleet.max_wait_s), self._dispatch)
        self._dispatch()

    def _dispatch(self, _: "Event | None" = None) -> None:
        fleet = self._fleet
        while self._idle and self._queue:
            # The same sum as that of simpy's timeout, so that the alarm never comes too early.
            due_s = self._queue[0][0] + fleet.max_wait_s
            if self._waits and len(self._queue) < fleet.max_batch and self._env.now < due_s:
                return
            self._serve(min(fleet.max_batch, len(self._queue)))

    def _serve(self, size: int) -> None:
        batch = [self._queue.popleft() for _ in range(size)]
        service_s = self._fleet.serve_fixed_s + size * self._fleet.serve_each_s
        self._idle -= 1
        self.batches += 1
        self.busy_s += service_s
        self.waited_s += sum(self._env.now - arrived_s for arrived_s, _ in batch)
        _then(self._env.timeout(service_s), partial(self._finish, batch))

    def _finish(self, batch: list[tuple[float, float]], _: "Event") -> None:
        self._idle += 1
        self.done_at_s = self._env.now
        self.latencies_s.extend(self._env.now - left_s for _, left_s in batch)
        self._dispatch()


@final
class _Edges:
    """What all edges have in common, and the life of each."""

    def __init__(self, env: "Environment", fleet: Fleet, rng: random.Random, cloud: _Cloud):
        self._env, self._fleet, self._rng, self._cloud = env, fleet, rng, cloud
        self._depth = inf if fleet.poisson else fleet.depth
        self.worked_s = 0.0
        self.blocked_s = 0.0

    def run(self, link: _Link) -> "Generator[Event, None, None]":
        """Be one edge: work, wait for room in the queue, hand over, and so on."""
        env = self._env
        waiting: deque[float] = deque()  # when the transfers of its queued uploads start
        yield env.timeout(self._draw_phase_s())
        for remaining in range(self._fleet.uploads, 0, -1):
            step_s = self._draw_step_s(remaining)
            yield env.timeout(step_s)
            self.worked_s += step_s
            left_s = env.now
            while waiting and waiting[0] <= left_s:
                waiting.popleft()
            if len(waiting) == self._depth:
                yield env.timeout(waiting.popleft() - left_s)
                self.blocked_s += env.now - left_s
            start_s, arrival_s = link.send(env.now)
            waiting.append(start_s)
            _then(env.timeout(arrival_s - env.now), partial(self._cloud.arrive, left_s))

    def _draw_phase_s(self) -> float:
        if self._fleet.poisson or self._fleet.edges == 1:
            return 0.0
        return self._rng.random() * self._fleet.period_s

    def _draw_step_s(self, remaining: int) -> float:
        """Return the time until the next upload: the least of ``remaining`` uniform moments."""
        fleet = self._fleet
        if not fleet.poisson:
            return fleet.period_s
        left_s = fleet.uploads * fleet.period_s - self._env.now
        return -left_s * expm1(-self._rng.expovariate(1.0) / remaining)


def _then(event: "Event", do: "Callable[[Event], None]") -> None:
    """Call ``do`` when ``event`` happens; a process for each would cost twice the time."""
    event.callbacks.append(do)


def _outcome(fleet: Fleet, edges: _Edges, links: list[_Link], cloud: _Cloud) -> Outcome:
    duration_s, served = cloud.done_at_s, len(cloud.latencies_s)
    sent_s = sum(link.busy_s for link in links)
    latencies_s = np.frombuffer(cloud.latencies_s)
    p50_s, p95_s, p99_s = np.percentile(latencies_s, (50, 95, 99)).tolist()

    def share(busy_s: float, servers: int) -> float:
        return min(1.0, busy_s / (servers * duration_s))  # rounding may carry a sum past the whole

    return Outcome(
        duration_s=duration_s,
        uploads=served,
        per_second=served / duration_s,
        edge_busy=share(edges.worked_s, fleet.edges),
        link_busy=share(sent_s, len(links)),
        cloud_busy=share(cloud.busy_s, fleet.workers),
        blocked=share(edges.blocked_s, fleet.edges),
        batch_fill=served / cloud.batches,
        wait_mean_s=cloud.waited_s / served,
        latency_mean_s=float(latencies_s.mean()),
        latency_p50_s=p50_s,
        latency_p95_s=p95_s,
        latency_p99_s=p99_s,
        bottleneck=_bottleneck(fleet, edges.worked_s, sent_s / len(links)),
    )


def _bottleneck(fleet: Fleet, worked_s: float, link_s: float) -> Station:
    total = fleet.edges * fleet.uploads
    served_s = ceil(total / fleet.max_batch) * fleet.serve_fixed_s + total * fleet.serve_each_s
    alone_s: dict[Station, float] = {
        "edge": worked_s / fleet.edges,
        "link": link_s,
        "cloud": served_s / fleet.workers,
    }
    return max(alone_s, key=lambda station: alone_s[station])
