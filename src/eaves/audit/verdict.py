"""What all attempts to read one attribute come to: limits, and controls that must find or must not.

An attack that fails says something where it could have succeeded. So each attacker has a positive
control: an attribute that was planted, behind the same noise and codec, at the same budget. One
that does not find it counts for nothing. And one that reads shuffled labels reads what is not
there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, final

from eaves.audit.findings import Finding, Reconstruction
from eaves.errors import ConfigError

_Z2000 = 3.290526731491926  # the 99.95 % quantile of the standard normal distribution
_FOUND = 0.5  # of the planted advantage
METRICS = ("rate", "balanced", "auc", "tpr")
"""What a limit can be on, by the name of its figure."""


@final
@dataclass(frozen=True, kw_only=True)
class Control:
    """Negative control: an attack on shuffled private labels must do no better than chance."""

    finding: Finding

    @property
    def sound(self) -> bool:
        """False where it does better, by 3.29 standard errors.

        That happens by chance in less than 1 audit of 2,000. A 95 % interval would call 1 sound
        audit of 40 broken.
        """
        reading = self.finding.reading
        error = sqrt(reading.majority * (1 - reading.majority) / reading.rate.n)
        return reading.rate.value <= reading.majority + _Z2000 * error

    @property
    def excess(self) -> float:
        """How far above chance it is."""
        return self.finding.reading.rate.value - self.finding.reading.majority

    @property
    def statement(self) -> str:
        """What it says about the audit, in words."""
        reading = self.finding.reading
        what = (
            f"with shuffled labels {self.finding.attacker!r} reads {self.finding.attribute} at "
            f"{reading.rate.value:.3f}, chance is {reading.majority:.3f}"
        )
        if self.sound:
            return f"{what}: as it must be"
        return f"{what}: the audit itself is broken, believe none of its figures"

    def as_json(self) -> dict[str, Any]:
        """Return the finding, and whether it is sound."""
        return {"finding": self.finding.as_json(), "sound": self.sound}


@final
@dataclass(frozen=True, kw_only=True)
class Planted:
    """Positive control of one attacker: what was surely there, and whether it was found."""

    attack: str
    attacker: str
    what: str
    """What was planted, and where."""
    found: float
    """What the attacker makes of it: balanced accuracy, SSIM, mean rank, or correlation."""
    chance: float
    strength: float | None
    """What a simple reference makes of it, on the same features; None: there is none."""
    passed: bool

    @classmethod
    def of(cls, finding: Finding, *, strength: float) -> "Planted":
        """Judge who looked for a planted attribute that a reference reads at ``strength``.

        Found means above chance, and at least half of what the reference gains over chance.
        """
        balanced, chance = finding.reading.balanced, finding.reading.balanced_chance
        enough = balanced.value - chance >= _FOUND * (strength - chance)
        return cls(
            attack=finding.attack,
            attacker=finding.attacker,
            what="a binary attribute, planted in the features before noise and codec",
            found=balanced.value,
            chance=chance,
            strength=strength,
            passed=enough and balanced.low > chance,
        )

    @classmethod
    def rebuilt(cls, attack: str, found: Reconstruction) -> "Planted":
        """Judge who rebuilt images from a release that surely holds them."""
        return cls(
            attack=attack,
            attacker=attack,
            what="images behind one random convolution and the codec, without noise",
            found=found.likeness.ssim.value,
            chance=found.mean_image.ssim.value,
            strength=None,
            passed=found.beats_chance,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit, and the finding that comes nearest to it or exceeds it most."""

    metric: str
    limit: float
    worst: Finding

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 1:
            raise ConfigError(f"expected a limit of {self.metric} in [0, 1], got {self.limit}")

    @property
    def holds(self) -> bool:
        """True where the highest figure is not above the limit."""
        return bool(getattr(self.worst.reading, self.metric).value <= self.limit)

    @property
    def surely_holds(self) -> bool:
        """True where the upper end of its interval is not above the limit."""
        return bool(getattr(self.worst.reading, self.metric).high <= self.limit)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and whether it holds."""
        return {
            "limit": self.limit,
            "attack": self.worst.attack,
            "attacker": self.worst.attacker,
            "value": asdict(getattr(self.worst.reading, self.metric)),
            "holds": self.holds,
            "surely_holds": self.surely_holds,
        }


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all attempts to read one attribute come to.

    The best is the best on the victims, which no attacker could know: a maximum over several is a
    little too high, in favour of the attacker. What an attacker would trust is ``chosen``, on its
    own held-out examples: its interval is what it says. Limits are on the best, to be sure.
    """

    best: Finding
    chosen: Finding
    """The one that the attacker would trust: the best on its own held-out examples."""
    attempts: int
    beats: tuple[str, ...]
    """Which figures of any attempt lie above chance; an attack failed where it is empty."""
    limits: tuple[Limit, ...] = ()
    early: tuple[str, ...] = ()
    """Attackers that their time ended: with more of it they might have read more."""
    powerless: tuple[str, ...] = ()
    """Attackers that did not find what was planted: that they failed says nothing."""
    differing: tuple[str, ...] = ()
    """Attackers whose own examples and the victims were read differently."""

    @classmethod
    def of(
        cls,
        findings: Sequence[Finding],
        *,
        limits: Mapping[str, float] | None = None,
        controls: Sequence[Planted] = (),
    ) -> "Verdict":
        """Return the verdict on ``findings`` of one attribute, with limits by metric.

        Raises:
            ConfigError: a limit outside [0, 1].
            ValueError: no findings, or findings of several attributes.
        """
        if len({finding.attribute for finding in findings}) != 1:
            raise ValueError(f"expected findings of one attribute, got {list(findings)}")
        best = max(findings, key=lambda f: f.reading.rate.value)
        chosen = max(findings, key=lambda f: -1.0 if f.held_out is None else f.held_out)
        beating = {name for finding in findings for name in finding.reading.beats}
        failed = {(c.attack, c.attacker) for c in controls if not c.passed}
        return cls(
            best=best,
            chosen=chosen,
            attempts=len(findings),
            beats=tuple(name for name in METRICS if name in beating),
            limits=tuple(
                Limit(metric=metric, limit=limit, worst=_highest(findings, metric))
                for metric, limit in (limits or {}).items()
            ),
            early=tuple(name_of(f) for f in findings if f.effort.ended_by_time),
            powerless=tuple(name_of(f) for f in findings if _control_of(f) in failed),
            differing=tuple(name_of(f) for f in findings if f.differs),
        )

    @property
    def holds(self) -> bool | None:
        """True where all limits hold and all attackers ended on their own; None without limits."""
        if not self.limits:
            return None
        return not self.early and all(limit.holds for limit in self.limits)

    @property
    def surely_holds(self) -> bool | None:
        """The same for the upper ends of the intervals."""
        if not self.limits:
            return None
        return not self.early and all(limit.surely_holds for limit in self.limits)

    @property
    def failed(self) -> bool:
        """True where no figure of any attempt lies above chance."""
        return not self.beats

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and whether the limits hold."""
        limits = {limit.metric: limit.as_json() for limit in self.limits}
        return {
            "best": self.best.as_json(),
            "chosen": self.chosen.as_json(),
            "attempts": self.attempts,
            "beats": list(self.beats),
            "max_attack": limits["rate"]["limit"] if "rate" in limits else None,
            "limits": limits,
            "early": list(self.early),
            "powerless": list(self.powerless),
            "differing": list(self.differing),
            "holds": self.holds,
            "surely_holds": self.surely_holds,
        }


def name_of(finding: Finding) -> str:
    """Return the attack, and the attacker where that is not the same.

    >>> from types import SimpleNamespace
    >>> name_of(SimpleNamespace(attack="attribute", attacker="mlp"))
    'mlp'
    """
    if finding.attack == "attribute":
        return finding.attacker
    return finding.attack if finding.attack == "labels" else f"{finding.attack}: {finding.attacker}"


def _control_of(finding: Finding) -> tuple[str, str]:
    """Return whose control counts for a finding: that of the reader, or of who rebuilt images."""
    if finding.attack in ("attribute", "single mixture"):
        return "attribute", finding.attacker
    if finding.attack == "labels":
        return "labels", finding.attacker
    return finding.attack, finding.attack


def _highest(findings: Sequence[Finding], metric: str) -> Finding:
    return max(findings, key=lambda f: float(getattr(f.reading, metric).value))
