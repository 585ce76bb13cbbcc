"""What attacks find, each figure with its interval, its n, the chance level and the effort.

That an attack failed says that this attack failed with this effort, and no more.

Dimension key:  N victims   K classes of the private attribute
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum, sqrt
from typing import Any, final

import torch
from torch import Tensor

from eaves.core.rates import Rate
from eaves.errors import ConfigError

_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
_Z2000 = 3.290526731491926  # the 99.95 % quantile


@final
@dataclass(frozen=True, kw_only=True)
class Stage:
    """What an audit does now."""

    what: str


@final
@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one attacker is: ``done`` of ``total`` rounds, and a figure of its own examples."""

    attack: str
    attacker: str
    done: int
    total: int
    figure: float
    """Accuracy on the examples it holds out (attributes), or its loss (reconstructions)."""


@final
@dataclass(frozen=True, kw_only=True)
class Effort:
    """What an attack had and spent."""

    known: int
    """Examples of its own."""
    rounds: int
    """Passes over them (nets), trees, or steps of a search."""
    time_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, kw_only=True)
class Score:
    """The mean of ``n`` figures; [``low``, ``high``] is its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, figures: Sequence[float] | Tensor) -> "Score":
        """Return the mean with its normal interval, mean +- 1.96 s / sqrt(n).

        Raises:
            ValueError: fewer than 2 figures, or one that is not finite.

        >>> Score.of([1.0, 3.0])
        Score(value=2.0, low=0.0400..., high=3.9599..., n=2)
        """
        values = torch.as_tensor(figures, dtype=torch.float64)
        if values.ndim != 1 or len(values) < 2 or not bool(values.isfinite().all()):
            raise ValueError(f"expected 2 or more finite figures, got {values}")
        mean, half = float(values.mean()), _Z95 * float(values.std()) / sqrt(len(values))
        return cls(value=mean, low=mean - half, high=mean + half, n=len(values))

    @classmethod
    def balanced(cls, rates: Sequence[Rate]) -> "Score":
        """Return the mean of the rates of K classes: balanced accuracy.

        The interval joins theirs: the distances to their ends add up as independent errors do.

        Source: Newcombe, *Interval estimation for the difference between independent proportions*,
        Statistics in Medicine 17 (1998), method 10, for a mean instead of a difference.

        >>> Score.balanced([Rate.of(9, 10), Rate.of(40, 80)]).value
        0.7
        """
        k = len(rates)
        mean = fsum(rate.value for rate in rates) / k
        below = sqrt(fsum((rate.value - rate.low) ** 2 for rate in rates)) / k
        above = sqrt(fsum((rate.high - rate.value) ** 2 for rate in rates)) / k
        return cls(value=mean, low=mean - below, high=mean + above, n=sum(r.n for r in rates))

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def classes_in(private_N: Tensor) -> list[int]:
    """Return the classes that occur, in order.

    >>> classes_in(torch.tensor([3, 0, 3]))
    [0, 3]
    """
    classes: list[int] = private_N.bincount().nonzero()[:, 0].tolist()
    return classes


@final
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How often a private class was read, and how often one that looks at nothing is right."""

    rate: Rate
    majority: float
    """Chance level of ``rate``: the share of the victims' most frequent class."""
    balanced: Score
    """Balanced accuracy: the mean over the classes of the share that is recognised."""
    balanced_chance: float
    """Chance level of ``balanced``: one part in K."""

    @classmethod
    def of(cls, answers_N: Tensor, private_N: Tensor, *, fair_N: Tensor | None = None) -> "Reading":
        """Score answers against the classes of N victims.

        ``fair_N`` are answers that aim at balanced accuracy, where there are others for it: the
        likeliest class is seldom a rare one, even where much is known.

        >>> private_N = torch.tensor([0, 0, 0, 1])
        >>> reading = Reading.of(torch.tensor([0, 0, 0, 0]), private_N)
        >>> reading.rate.value, reading.majority, reading.balanced.value
        (0.75, 0.75, 0.5)
        """
        right_N = answers_N == private_N
        fair_right_N = right_N if fair_N is None else fair_N == private_N
        of_class = [fair_right_N[private_N == k] for k in classes_in(private_N)]
        n = len(private_N)
        return cls(
            rate=Rate.of(int(right_N.sum()), n),
            majority=max(len(right) for right in of_class) / n,
            balanced=Score.balanced([Rate.of(int(r.sum()), len(r)) for r in of_class]),
            balanced_chance=1 / len(of_class),
        )

    @property
    def beats_chance(self) -> bool:
        """True where the interval of the rate, or of balanced accuracy, lies above chance."""
        return self.rate.low > self.majority or self.balanced.low > self.balanced_chance

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and ``beats_chance``."""
        return {**asdict(self), "beats_chance": self.beats_chance}


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """How well one attacker read one private attribute of the victims, and at what cost."""

    attack: str
    """``attribute``, ``labels``, or the reconstruction that the attribute was read from."""
    attacker: str
    attribute: str
    reading: Reading
    effort: Effort
    held_out: float | None = None
    """Accuracy on the attacker's own held-out examples: all that it could choose by."""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, those of the reading among them."""
        about = asdict(self)
        del about["reading"]
        return {**about, **self.reading.as_json()}


@final
@dataclass(frozen=True, kw_only=True)
class Control:
    """An attack on private labels that belong to nobody: it must do no better than chance."""

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
class Likeness:
    """How like their originals some images are, on average over the victims."""

    ssim: Score
    psnr_db: Score
    mse: Score

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How like the victims' inputs the images are that one attack made of what left the edge."""

    attack: str
    likeness: Likeness
    mean_image: Likeness
    """Chance level: the mean of the attacker's own images, for every victim."""
    mean_image_of_label: Likeness | None
    """The same for each task label, which is sent in the clear."""
    effort: Effort
    read: Finding | None = None
    """The private attribute, read from the reconstructions."""
    note: str = ""

    @property
    def beats_chance(self) -> bool:
        """True where the interval of SSIM is above, or of MSE below, that of every mean image."""
        means = [mean for mean in (self.mean_image, self.mean_image_of_label) if mean]
        nearer = self.likeness.mse.high < min(mean.mse.low for mean in means)
        return nearer or self.likeness.ssim.low > max(mean.ssim.high for mean in means)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and ``beats_chance``."""
        read = self.read.as_json() if self.read else None
        return {**asdict(self), "read": read, "beats_chance": self.beats_chance}


@final
@dataclass(frozen=True, kw_only=True)
class Unmixed:
    """How much of the sources of mixed groups one attack got back.

    Sources of one group are not independent, they may all come back together. So groups are what
    is counted: n is their number in every figure (of pools of groups, for an attack on those).
    """

    attack: str
    recovered: Rate
    """The share of sources that an estimate correlates with by more than 0.95, of either sign."""
    correlation: Score
    """The mean |correlation| of each source with its estimate."""
    chance: Score
    """Chance level of ``correlation``: the same estimates, for the sources of another group."""
    likeness: Likeness | None
    """Of estimates that were given the originals' scale and offset; None where those are no images.
    """
    effort: Effort
    note: str = ""

    @property
    def beats_chance(self) -> bool:
        """True where the interval of the correlation is above that of chance."""
        return self.correlation.low > self.chance.high

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and ``beats_chance``."""
        return {**asdict(self), "beats_chance": self.beats_chance}


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all attempts to read one attribute come to.

    The best is the best on the victims, which no attacker could know: a maximum over several is a
    little too high, in favour of the attacker.
    """

    best: Finding
    chosen: Finding
    """The one that the attacker would trust: the best on its own held-out examples."""
    attempts: int
    max_attack: float | None = None
    """The limit on the rate of the best attack, where one is stated."""

    def __post_init__(self) -> None:
        if self.max_attack is not None and not 0 <= self.max_attack <= 1:
            raise ConfigError(f"expected max_attack in [0, 1], got {self.max_attack}")

    @classmethod
    def of(cls, findings: Sequence[Finding], *, max_attack: float | None = None) -> "Verdict":
        """Return the verdict on ``findings`` of one attribute, with a limit or without.

        Raises:
            ConfigError: a limit outside [0, 1].
            ValueError: no findings, or findings of several attributes.
        """
        if len({finding.attribute for finding in findings}) != 1:
            raise ValueError(f"expected findings of one attribute, got {list(findings)}")
        best = max(findings, key=lambda f: f.reading.rate.value)
        chosen = max(findings, key=lambda f: -1.0 if f.held_out is None else f.held_out)
        return cls(best=best, chosen=chosen, attempts=len(findings), max_attack=max_attack)

    @property
    def holds(self) -> bool | None:
        """True where the best rate is not above the limit; None without a limit."""
        return None if self.max_attack is None else self.best.reading.rate.value <= self.max_attack

    @property
    def surely_holds(self) -> bool | None:
        """True where the upper end of its interval is not above the limit; None without one."""
        return None if self.max_attack is None else self.best.reading.rate.high <= self.max_attack

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, and whether the limit holds."""
        return {
            "best": self.best.as_json(),
            "chosen": self.chosen.as_json(),
            "attempts": self.attempts,
            "max_attack": self.max_attack,
            "holds": self.holds,
            "surely_holds": self.surely_holds,
        }
