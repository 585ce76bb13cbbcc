"""How a run mixes inputs: frozen, checked, part of a training run's configuration.

Imports no torch, so that the command line can print its help at once.
"""

from dataclasses import dataclass
from typing import final

from eaves.errors import ConfigError
from eaves.experiments.settings import expect_between, expect_choice

LAWS = ("orthogonal", "convex", "affine")


@final
@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How datamix mixes the features of a group of inputs (``[mixing]`` in TOML)."""

    group: int = 4
    """datamix: inputs that are mixed together. Pairs need --hardened, or --allow-guessable."""
    law: str = "orthogonal"
    """How they are mixed: orthogonal, affine (parts of either sign), or convex (positive parts)."""
    max_share: float = 0.8
    """No input has more than this share of the energy of what is sent."""
    max_condition: float = 4.0
    """Largest condition number of the mixture: how much worse some answers may become than
    others when they are taken apart."""
    shuffle: bool = False
    """What is sent for all groups of a batch leaves in random order."""
    hardened: bool = False
    """Features are bounded and noised before they are mixed, as [privacy] says, and trained against
    adversaries that read the --private attributes, if any are named."""
    allow_guessable: bool = False
    """Train on pairs without --hardened, to measure them: at most one bit of the coefficients of a
    pair is secret, whatever the law."""
    cloud_ends: str | None = None
    """The cloud's last stage; what comes after it runs on the edge. By default the cloud ends with
    the net, and its answers are mixed logits."""

    def __post_init__(self) -> None:
        expect_choice(self, "law", LAWS)
        if self.group < 2:
            raise ConfigError(
                f"expected --group of 2 or more, got {self.group}: one input alone is mixed with "
                "nothing, and leaves as it is"
            )
        expect_between(self, "max_share", 0, 1)
        expect_between(self, "max_condition", 1, 1e6)

    def expect_secret(self) -> None:
        """Raise a :class:`ConfigError` where whoever knows the law guesses the coefficients.

        Of an orthogonal or affine pair one bit is secret (the difference is scaled up or down), of
        a convex one hardly anything: its weights are within 0.04 of each other.
        """
        if self.group == 2 and not (self.hardened or self.allow_guessable):
            raise ConfigError(
                "mixtures of pairs keep no secret: their coefficients hold one random bit at most, "
                "and whoever knows the law guesses it. Choose --hardened, which does not rely on "
                "the coefficients; a larger --group, which has more to guess, but is taken apart "
                "by other attacks (docs/mixing.md); or --allow-guessable, to measure pairs"
            )
