"""What a run has cost so far: seconds of each stage, bytes, samples, memory."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, final

from torch import nn

from eaves.core.memory import kept_for_backward
from eaves.core.roles import Learner, Losses

T = TypeVar("T")


@final
@dataclass
class Meter:
    """Seconds of one stage: at work, waiting for input, blocked by a full queue."""

    busy_s: float = 0.0
    waiting_s: float = 0.0
    blocked_s: float = 0.0


@final
@dataclass
class Totals:
    """Sums over a run, also across interruptions."""

    wall_s: float = 0.0
    edge: Meter = field(default_factory=Meter)
    link: Meter = field(default_factory=Meter)
    cloud: Meter = field(default_factory=Meter)
    bytes_up: int = 0
    bytes_down: int = 0
    samples: int = 0
    """Samples that the edge took, each as often as it did."""
    sent_samples: int = 0
    edge_peak_bytes: int = 0
    cloud_peak_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Totals":
        """Read what :meth:`as_json` wrote; ``TypeError`` or ``KeyError`` for something else."""
        meters = {name: Meter(**facts[name]) for name in ("edge", "link", "cloud")}
        sums = {name: value for name, value in facts.items() if name not in meters}
        for found in (sums, *(facts[name] for name in meters)):
            if not all(type(n) in (int, float) for n in found.values()):
                raise TypeError(f"expected figures, got {found}")
        return cls(**{**facts, **meters})


@final
class Smoothed:
    """Running means of a learner's figures over roughly the last 50 steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.means: dict[str, float] = {}

    def add(self, losses: Losses) -> None:
        """Take in the figures of one step."""
        self.steps += 1
        weight = max(0.02, 1 / self.steps)
        for name, value in losses.items():
            self.means[name] = self.means.get(name, 0.0) * (1 - weight) + value * weight

    def step(
        self, learner: Learner, body: Callable[[], tuple[T, Losses]], given_bytes: int
    ) -> tuple[T, int]:
        """Run one step of ``learner`` and take in its figures; return its result and its memory.

        The memory is that of state, input (``given_bytes``) and what is kept for backward. It is
        counted in the first step, which costs a little; 0 in all others.
        """
        if self.steps:
            result, losses = body()
            peak_bytes = 0
        else:
            modules = learner.part.modules if learner.part else nn.ModuleDict()
            held = (*modules.parameters(), *modules.buffers())  # the state has them already
            with kept_for_backward(but=held) as kept:
                result, losses = body()
            peak_bytes = learner.state_bytes() + kept.total + given_bytes
        self.add(losses)
        return result, peak_bytes
