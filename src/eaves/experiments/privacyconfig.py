"""What a run hides from the cloud: frozen, checked, part of a training run's configuration.

Imports no torch, so that the command line can print its help at once.
"""

from dataclasses import dataclass
from typing import final

from eaves.errors import ConfigError
from eaves.experiments.settings import expect_between, expect_choice

BOUNDS = ("auto", "tanh", "clip", "l1", "l2")
LAWS = ("gaussian", "laplace", "none")
AIMS = ("uniform", "entropy", "reversal")
UNITS = ("tensor", "element")


@final
@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """How the methods that hide private attributes do it (``[privacy]`` in TOML)."""

    private: str = ""
    """Attributes that the cloud shall not learn, with commas between: Male or Male,Young. Needed by
    priphit, nopeek, disco and deepobfuscator, and by audits; their labels stay on the edge."""
    bound: str = "auto"
    """How features are bounded before noise: tanh, clip (each value), l1 or l2 (their norm); auto:
    l2 for siamese, tanh for all others."""
    bound_limit: float | None = None
    """The limit of the bound; by default 1, for siamese 1.5 times the root mean square of the norm
    of what is sent."""
    noise: str = "gaussian"
    """Noise on what is sent, in training and in inference: gaussian, laplace or none."""
    noise_scale: float = 1.0
    """Standard deviation of gaussian noise, parameter b of laplace; tanh keeps features in ±1,
    those of siamese have a mean variance of 1."""
    epsilon: float | None = None
    """Choose the noise for this epsilon, over all releases of an example in training."""
    epsilon_unit: str = "tensor"
    """What --epsilon and --budget are for: the whole tensor of an example, or an element of it."""
    delta: float = 1e-5
    """The probability with which gaussian noise may fail to keep epsilon."""
    budget: float | None = None
    """Refuse to send where epsilon over all releases would be above this."""
    weight: float = 1.0
    """Of hiding, against the task."""
    aim: str = "uniform"
    """What the edge drives adversaries to: uniform (they see all classes alike), entropy, or
    reversal (they are wrong)."""
    adversaries: int = 2
    """For each private attribute, of different depth; 0: noise only."""
    adversary_steps: int = 1
    """Steps of the adversaries for each of the edge part."""
    ramp: float = 0.5
    """Share of the edge's training until hiding has its full weight; half of it passes without."""
    restarts: int = 0
    """How often adversaries begin again, one after the other."""
    keep_training: bool = False
    """With --send every-epoch: the edge goes on learning while it sends."""

    def __post_init__(self) -> None:
        choices = {"bound": BOUNDS, "noise": LAWS, "aim": AIMS, "epsilon_unit": UNITS}
        for name, known in choices.items():
            expect_choice(self, name, known)
        for name in ("adversaries", "restarts"):
            expect_between(self, name, 0, 1000)
        expect_between(self, "adversary_steps", 1, 1000)
        expect_between(self, "ramp", 0, 1)
        for name in ("noise_scale", "weight"):
            expect_between(self, name, 0, 1e6)
        for name in ("bound_limit", "epsilon", "budget"):
            if getattr(self, name) is not None:
                expect_between(self, name, 1e-6, 1e6)
        expect_between(self, "delta", 1e-300, 0.5)
        if self.epsilon is not None and self.noise == "none":
            raise ConfigError("--epsilon needs noise: choose --noise gaussian or laplace")
        if len(set(self.attributes)) < len(self.attributes):
            raise ConfigError(f"--private names the same attribute twice: {self.private}")

    @property
    def attributes(self) -> tuple[str, ...]:
        """The private attributes."""
        return tuple(name.strip() for name in self.private.split(",") if name.strip())
