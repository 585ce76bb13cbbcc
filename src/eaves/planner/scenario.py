"""The planner's question: where a net is trained or run, for how long, and in which way."""

from dataclasses import dataclass, fields
from math import isfinite
from typing import final

from eaves.core.specs import LinkSpec
from eaves.errors import ConfigError, unknown
from eaves.planner.profile import Profile, refuse_difference

_SENDS = ("every-epoch", "once")


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to train or answer. ``cut`` and ``codec`` are None where nothing is cut or sent."""

    method: str
    cut: str | None = None
    codec: str | None = None
    send: str = "every-epoch"

    def __post_init__(self) -> None:
        if self.send not in _SENDS:
            raise unknown("send", self.send, _SENDS)

    def __str__(self) -> str:
        """Return it in words, as tables name it."""
        once = "once" if self.send == "once" else None
        return " ".join(filter(None, (self.method, self.cut, self.codec, once)))


@final
@dataclass(frozen=True, kw_only=True)
class Choices:
    """What some methods have beside a cut and a codec; the numbers are ours."""

    adversaries: int = 2
    """PriPHiT: exits that try to read the private attribute."""
    adversary_steps: int = 1
    """PriPHiT: steps that each of them takes for one of the edge part."""
    group: int = 4
    """DataMix: inputs that are mixed together."""
    components: int = 8
    """Siamese: numbers that are left of the features, one byte each."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                value = getattr(self, field.name)
                raise ConfigError(f"expected {field.name} of 1 or more, got {value}")


@final
@dataclass(frozen=True, kw_only=True)
class Power:
    """Watts of the edge device at work and at rest."""

    busy_w: float
    idle_w: float

    def __post_init__(self) -> None:
        if not (isfinite(self.busy_w) and 0 <= self.idle_w <= self.busy_w):
            raise ConfigError(
                "expected watts at work that are finite and not below those at rest, 0 or more, "
                f"got {self.busy_w} and {self.idle_w}"
            )


@final
@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Where and for how long: both machines as profiles of the same net, and the link between."""

    edge: Profile
    cloud: Profile
    link: LinkSpec
    batches: int
    """In an epoch."""
    epochs: int = 10
    """Of the run, which sending once is spread over."""
    one_process: bool = False
    """Edge and cloud share a machine and slow each other down, as in `eaves train`."""
    power: Power | None = None
    """Of the edge; None: not known."""
    choices: Choices = Choices()

    def __post_init__(self) -> None:
        if min(self.batches, self.epochs) < 1:
            raise ConfigError(
                f"expected 1 or more batches and epochs, got {self.batches} and {self.epochs}"
            )

        refuse_difference(self.edge, self.cloud, ("the edge", "the cloud"))

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return self.edge.subject.batch_size
