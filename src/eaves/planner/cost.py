r"""What a method costs at a cut: pure functions of two profiles and a link.

Per batch, with E the edge part, X its exit, C the cloud part, Q(z) the codec of z, and F, B, U the
times of forward, backward and update, on the edge (e) or in the cloud (c)::

    T_full_cloud = Q_e(x) + bits(x)/R + Q_c(x) + F_c + B_c + U_c               all in the cloud
    T_full_edge  = F_e + B_e + U_e                                             all on the edge
    T_hier       = F_e(E) + Q_e(z) + max{ F_e(X) + B_e(X) + B_e(E) + U_e,
                             bits(z)/R + Q_c(z) + F_c(C) + B_c(C) + U_c }      one way
    T_split      = F_e(E) + Q_e(z) + bits(z)/R + Q_c(z) + F_c(C) + B_c(C) + U_c
                   + Q_c(dz) + bits(dz)/R + Q_e(dz) + B_e(E) + U_e             there and back

Source: the runtime model of Sepehri et al. 2024 (arXiv:2303.02384), with the codec's time, the
delay of the link, and the fetching of a batch on the edge. That is one batch after the other.
Pipelined over the batches, as the runtime does it, an epoch takes the first batch's way, which is
sent after the edge has learned from it, and then, for each other batch, the longest of edge, link
and cloud; split learning has nothing to overlap.

Edge memory, in bytes, with P weights, k = 3 copies of each (weight, gradient, momentum; 4 in
PriPHiT, which trains by Adam), A what autograd keeps of one example, and B the batch:
4 k (P(E) + P(X)) + B (A(E) + A(X)) + B |x|. A measured peak may be lower, since gradients come as
activations go, or higher, since operations need room of their own. What a part holds that is not
trained, such as running statistics, is added once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from eaves.core.methods import METHODS
from eaves.core.specs import LinkSpec, Transfer
from eaves.errors import ConfigError, unknown
from eaves.planner.phases import INFERENCE, ONCE, TRAINING, Held, Phase
from eaves.planner.scenario import Candidate, Scenario

_NOTHING = Transfer(0.0, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a candidate costs per epoch; in inference, for as many examples as an epoch has.

    ``epoch_s`` is pipelined over the batches, ``sequential_s`` is one batch after the other.
    ``edge_s``, ``link_s`` and ``cloud_s`` are how long each is at work.
    """

    epoch_s: float
    sequential_s: float
    edge_s: float
    link_s: float
    cloud_s: float
    bytes_up: float
    bytes_down: float
    samples: int
    latency_s: float
    """From a batch's first moment on the edge to its last anywhere."""
    memory_bytes: float
    """Of the edge, by the formula; in inference as followed, where the profile has that."""
    cloud_memory_bytes: float
    """Of the cloud, by the formula."""
    peak_bytes: int | None
    """Of the edge, as measured, or of what it holds in addition; None where it was not."""
    energy_j: float | None
    """Of the edge, radio included; None where watts or joules per bit are not known."""

    @property
    def bytes_per_sample(self) -> float:
        """What each example of an epoch costs on the way up."""
        return self.bytes_up / self.samples

    @property
    def bound(self) -> str:
        """Which of edge, link and cloud the epoch waits for."""
        busy = {"edge": self.edge_s, "link": self.link_s, "cloud": self.cloud_s}
        return max(busy, key=lambda name: busy[name])


def training_cost(scenario: Scenario, candidate: Candidate) -> Cost:
    """Return what training as ``candidate`` says costs per epoch.

    Raises:
        ConfigError: an unknown method, cut or codec, one that only answers, or cannot send once.
    """
    if candidate.method not in TRAINING:
        raise unknown("method to train by", candidate.method, TRAINING)
    if candidate.send == "once" and candidate.method not in ONCE:
        raise ConfigError(f"{candidate.method} cannot send once, only: {', '.join(ONCE)}")
    phases, held = TRAINING[candidate.method](scenario, candidate)
    spec, whole = METHODS[candidate.method], scenario.edge.stages[-1].name
    # Peaks were measured of a part with its exit: what waits for a gradient has none.
    where = whole if spec.sends == "nothing" else None if spec.waits else candidate.cut
    peak_bytes = scenario.edge.peak_bytes.get(where or "")
    return _cost(scenario, phases, scenario.epochs, held, peak_bytes)


def inference_cost(scenario: Scenario, candidate: Candidate) -> Cost:
    """Return what answering as many examples as an epoch has costs, batch by batch.

    Raises:
        ConfigError: an unknown method, cut or codec.
    """
    if candidate.method not in INFERENCE:
        raise unknown("method", candidate.method, INFERENCE)
    phases, held = INFERENCE[candidate.method](scenario, candidate)
    return _cost(scenario, phases, 1, held, None)


def _cost(
    scenario: Scenario,
    phases: Sequence[Phase],
    epochs: int,
    held: Held,
    peak_bytes: int | None,
) -> Cost:
    """Add up ``phases`` and share them out over ``epochs``."""
    contention = scenario.edge.contention if scenario.one_process else 1.0
    flows = [Flow.of(phase, scenario.link, contention) for phase in phases]
    epoch_s = sum(flow.pipelined_s for flow in flows) / epochs
    edge_s = sum(flow.phase.batches * flow.phase.edge_s for flow in flows) / epochs
    bytes_up = sum(phase.batches * phase.up_bytes for phase in phases) / epochs
    bytes_down = sum(phase.batches * phase.down_bytes for phase in phases) / epochs
    return Cost(
        epoch_s=epoch_s,
        sequential_s=sum(flow.phase.batches * flow.sequential_s for flow in flows) / epochs,
        edge_s=edge_s,
        link_s=sum(flow.phase.batches * flow.link_s for flow in flows) / epochs,
        cloud_s=sum(flow.phase.batches * flow.phase.cloud_s for flow in flows) / epochs,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        samples=scenario.batches * scenario.batch_size,
        latency_s=max(flow.sequential_s for flow in flows),
        memory_bytes=held.edge_bytes,
        cloud_memory_bytes=held.cloud_bytes,
        peak_bytes=peak_bytes,
        energy_j=_energy_j(scenario, edge_s, epoch_s, bytes_up, bytes_down),
    )


@final
@dataclass(frozen=True)
class Flow:
    """A phase with what its payloads cost on the link.

    ``contention`` is how many times longer the edge takes while the cloud is at work, and the cloud
    while the edge is: 1 for two machines.
    """

    phase: Phase
    up: Transfer
    down: Transfer
    contention: float

    @classmethod
    def of(cls, phase: Phase, link: LinkSpec, contention: float = 1.0) -> "Flow":
        """Send the payloads of ``phase`` over ``link``; what is empty is not sent."""
        up = link.expected(phase.up_bytes) if phase.up_bytes else _NOTHING
        down = link.expected(phase.down_bytes, up=False) if phase.down_bytes else _NOTHING
        return cls(phase, up, down, contention)

    @property
    def link_s(self) -> float:
        """Of one batch, while bits travel; both ways at once where batches overlap."""
        ways = (self.up.busy_s, self.down.busy_s)
        return sum(ways) if self.phase.waits else max(ways)

    @property
    def _away_s(self) -> float:
        """From the moment that a batch leaves the edge until its answer, if any, is there."""
        on_links_s = self.up.busy_s + self.up.delay_s + self.down.busy_s + self.down.delay_s
        return on_links_s + self.phase.cloud_s

    @property
    def sequential_s(self) -> float:
        """Of one batch, when nothing but the edge's own learning overlaps."""
        phase = self.phase
        return phase.ahead_s + max(phase.beside_s, self._away_s) + phase.after_s

    @property
    def pipelined_s(self) -> float:
        """Of all batches, each stage beginning the next as soon as it can."""
        phase = self.phase
        if phase.waits:
            return phase.batches * self.sequential_s
        first_s = phase.edge_s + self._away_s
        return first_s + (phase.batches - 1) * self._slowest_s

    @property
    def _slowest_s(self) -> float:
        """Of one batch in the midst of many: the longest of edge, link and cloud.

        While edge and cloud both work, both take ``contention`` times as long; the slower of them
        never rests, unless for the link.
        """
        shorter_s, longer_s = sorted((self.phase.edge_s, self.phase.cloud_s))
        beside_s = longer_s + (self.contention - 1) * shorter_s
        return max(beside_s, self.up.busy_s, self.down.busy_s)


def _energy_j(
    scenario: Scenario, edge_s: float, epoch_s: float, bytes_up: float, bytes_down: float
) -> float | None:
    """Return the edge's energy of an epoch: at work, at rest until its end, and on the radio."""
    up_j = scenario.link.energy_j(bytes_up) if bytes_up else 0.0
    down_j = scenario.link.energy_j(bytes_down, up=False) if bytes_down else 0.0
    power = scenario.power
    if power is None or up_j is None or down_j is None:
        return None
    resting_s = max(0.0, epoch_s - edge_s)
    return power.busy_w * edge_s + power.idle_w * resting_s + up_j + down_j
