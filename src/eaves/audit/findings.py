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

from eaves.audit.metrics import auc, caught, chance_of_caught
from eaves.core.rates import Rate

_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
_Z1000 = 3.290526731491926  # the 99.95 % quantile: 1 in 1,000 to both sides
_ONE_SIDED = 0.025  # what lies below a 95 % interval
_AUC_CHANCE = 0.5
_TWO = 2


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
    """Passes over them (nets), trees, or steps of a search, that were made in full."""
    time_s: float
    planned: int | None = None
    """Rounds that it was to make; None: there is no plan but to end."""
    ended_by_time: bool = False
    """It did less than was planned, because its time was over."""

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
    """How well a private class was read, and how well one that looks at nothing would."""

    rate: Rate
    majority: float
    """Chance level of ``rate``: the share of the victims' most frequent class."""
    balanced: Score
    """Balanced accuracy: the mean over the classes of the share that is recognised."""
    balanced_chance: float
    """Chance level of ``balanced``: one part in K."""
    auc: Score
    """Area under the ROC curve: of more than two classes the mean, one against the rest. Chance is
    a half."""
    tpr: Rate
    """Of the class that is caught most often, the share that is where 1 % of the others are, too.
    """
    tpr_chance: float
    """Chance level of ``tpr``: about 1 %."""
    tpr_luck: float
    """The probability that so many, of any class, are caught by luck alone."""

    @classmethod
    def of(
        cls,
        answers_N: Tensor,
        private_N: Tensor,
        *,
        fair_N: Tensor | None = None,
        scores_NK: Tensor | None = None,
    ) -> "Reading":
        """Score answers against the classes of N victims.

        ``fair_N`` are answers that aim at balanced accuracy, where there are others for it: the
        likeliest class is seldom a rare one, even where much is known. ``scores_NK`` say how sure
        an attacker is of each class, as logits; without them the fair answers count as sure.

        >>> private_N = torch.tensor([0, 0, 0, 1])
        >>> reading = Reading.of(torch.tensor([0, 0, 0, 0]), private_N)
        >>> reading.rate.value, reading.majority, reading.balanced.value, reading.auc.value
        (0.75, 0.75, 0.5, 0.5)
        """
        fair_N = answers_N if fair_N is None else fair_N
        right_N, fair_right_N = answers_N == private_N, fair_N == private_N
        classes = classes_in(private_N)
        of_class = [fair_right_N[private_N == k] for k in classes]
        if scores_NK is None:
            most = 1 + int(torch.cat([fair_N, private_N]).max())
            scores_NK = torch.eye(most)[fair_N]
        n, caught = len(private_N), _caught(scores_NK, private_N, classes)
        return cls(
            rate=Rate.of(int(right_N.sum()), n),
            majority=max(len(right) for right in of_class) / n,
            balanced=Score.balanced([Rate.of(int(r.sum()), len(r)) for r in of_class]),
            balanced_chance=1 / len(of_class),
            auc=_auc(scores_NK, private_N, classes),
            tpr=caught[0],
            tpr_chance=caught[1],
            tpr_luck=caught[2],
        )

    @property
    def beats(self) -> tuple[str, ...]:
        """The figures whose 95 % interval lies above chance: rate, balanced, auc, tpr."""
        above = {
            "rate": self.rate.low > self.majority,
            "balanced": self.balanced.low > self.balanced_chance,
            "auc": self.auc.low > _AUC_CHANCE,
            "tpr": self.tpr_luck < _ONE_SIDED,
        }
        return tuple(name for name, is_above in above.items() if is_above)

    @property
    def beats_chance(self) -> bool:
        """True where any of its figures does."""
        return bool(self.beats)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, what ``beats`` chance, and whether anything does."""
        return {**asdict(self), "beats": list(self.beats), "beats_chance": self.beats_chance}


def _auc(scores_NK: Tensor, private_N: Tensor, classes: Sequence[int]) -> Score:
    """Return the mean AUC of one class against the rest; of two classes there is one.

    The errors of several are added as if they were one: they share victims, and may go together.
    """
    found = [
        auc(*_against_rest(scores_NK, private_N, k))
        for k in (classes[1:] if len(classes) == _TWO else classes)
    ]
    value, error = (sum(part) / len(found) for part in zip(*found, strict=True))
    low, high = max(0.0, value - _Z95 * error), min(1.0, value + _Z95 * error)
    return Score(value=value, low=low, high=high, n=len(private_N))


def _caught(
    scores_NK: Tensor, private_N: Tensor, classes: Sequence[int]
) -> tuple[Rate, float, float]:
    """Return TPR at 1 % FPR of the class with the highest, its chance, and its luck of K tries."""
    found = []
    for k in classes:
        scores_P, scores_Q = _against_rest(scores_NK, private_N, k)
        rate, luck = caught(scores_P, scores_Q)
        found.append((rate, chance_of_caught(len(scores_Q)), min(1.0, luck * len(classes))))
    best = max(found, key=lambda one: (-one[2], one[0].value))
    return best if best[2] < _ONE_SIDED else max(found, key=lambda one: one[0].value)


def _against_rest(scores_NK: Tensor, private_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return how sure one is of class ``k`` against all others, of those of the class and not."""
    rest_NJ = torch.cat([scores_NK[:, :k], scores_NK[:, k + 1 :]], dim=1)
    scores_N = (scores_NK[:, k].double() - rest_NJ.double().logsumexp(dim=1)).nan_to_num()
    return scores_N[private_N == k], scores_N[private_N != k]


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
    check: Score | None = None
    """Balanced accuracy on others of its own that chose nothing: what it expects of the victims."""
    check_unseen: bool = False
    """Whether the net was trained on none of those."""
    seeds: tuple[float, ...] = ()
    """The rate on the victims of each seed, where there were several; the finding is that of the
    one that its held-out examples chose."""
    note: str = ""

    @property
    def differs(self) -> bool:
        """True where the victims are read otherwise than the attacker's own examples.

        By 3.29 standard errors: by chance in 1 of 1,000 findings. Something lies between the two:
        another path, or features of another kind.
        """
        if self.check is None:
            return False
        ours, theirs = self.check, self.reading.balanced
        if ours.value > theirs.value:
            gap, wide = (
                ours.value - theirs.value,
                (ours.value - ours.low, theirs.high - theirs.value),
            )
        else:
            gap, wide = (
                theirs.value - ours.value,
                (theirs.value - theirs.low, ours.high - ours.value),
            )
        return gap > _Z1000 / _Z95 * sqrt(wide[0] ** 2 + wide[1] ** 2)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, those of the reading among them, and ``differs``."""
        about = asdict(self)
        del about["reading"]
        about["seeds"] = list(self.seeds)
        return {**about, "differs": self.differs, **self.reading.as_json()}


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
