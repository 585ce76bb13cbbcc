"""Where to put the threshold of an early exit: accuracy against the share that is sent.

An example whose exit is final is answered by the exit, any other by the cloud. From scored examples
with known labels follows the accuracy of every threshold that makes a difference, in one sort.

Examples that choose a threshold flatter it; measure the choice on others (:func:`measured`).

Dimension key:  N examples   G groups of equal scores   K classes
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from eaves.core.rates import Rate
from eaves.core.rules import RULES, ExitRule
from eaves.errors import ConfigError, unknown


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Examples with known labels: the exit's score (a rule's ``scores``), and who is right."""

    scores: Tensor
    exit_right: Tensor
    cloud_right: Tensor

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, values in (("exit", self.exit_right), ("cloud", self.cloud_right)):
            if values.dtype != torch.bool or values.shape != (n,) or not n:
                raise ValueError(
                    f"expected {name} bool of shape ({n},) and 1 or more examples, "
                    f"got {values.dtype} of shape {tuple(values.shape)}"
                )
        if not bool(((self.scores >= 0) & (self.scores <= 1)).all()):
            raise ValueError("expected scores in [0, 1], got some outside, or NaN")

    def __len__(self) -> int:
        return len(self.scores)

    def halves(self) -> tuple["Scored", "Scored"]:
        """Return the examples at even places, to choose with, and at odd ones, to measure with."""
        if len(self) < 2:
            raise ConfigError(f"expected 2 or more examples to divide in halves, got {len(self)}")
        even, odd = (
            Scored(
                scores=self.scores[first::2],
                exit_right=self.exit_right[first::2],
                cloud_right=self.cloud_right[first::2],
            )
            for first in (0, 1)
        )
        return even, odd


@final
@dataclass(frozen=True, kw_only=True)
class Point:
    """What a threshold does to some examples: how many are sent, and how many answers are right."""

    threshold: float
    sent: int
    accuracy: Rate

    @property
    def share_sent(self) -> float:
        """The share of the examples that the cloud answers."""
        return self.sent / self.accuracy.n

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {
            "threshold": self.threshold,
            "share_sent": self.share_sent,
            "accuracy": self.accuracy.as_json(),
        }


@final
@dataclass(frozen=True, kw_only=True)
class Curve:
    """Every threshold of a rule that makes a difference, from the one that sends most.

    ``rule`` is a name in :data:`eaves.core.exits.RULES`. Each point sends strictly fewer examples
    than the one before it; the first sends all.
    """

    rule: str
    points: tuple[Point, ...]

    def with_accuracy(self, target: float) -> Point:
        """Return the point that sends least among those with an accuracy of ``target`` or more.

        Raises:
            ConfigError: no threshold reaches it; the message names the best that can be had.
        """
        _expect_share("accuracy", target)
        for point in reversed(self.points):
            if point.accuracy.value >= target:
                return point
        best = self._best(self.points)
        # Rounded down: what the message names can be asked for.
        named = int(1e4 * best.accuracy.value) / 1e4
        raise ConfigError(
            f"no threshold reaches an accuracy of {target:.4f} on the {best.accuracy.n} "
            f"calibration examples; the best is {named:.4f}, with {best.share_sent:.1%} sent"
        )

    def with_share(self, target: float) -> Point:
        """Return the most accurate point that sends at most a share of ``target``.

        Of points that are equally accurate it is the one that sends least.

        Raises:
            ConfigError: every threshold sends more; the message names the least.
        """
        _expect_share("share", target)
        allowed = [point for point in self.points if point.share_sent <= target]
        if not allowed:
            raise ConfigError(
                f"no threshold sends a share of {target:.4f} or less: the exit knows nothing at "
                f"all of the others; the least is {self.points[-1].share_sent:.4f}"
            )
        return self._best(allowed)

    @staticmethod
    def _best(points: "tuple[Point, ...] | list[Point]") -> Point:
        return max(points, key=lambda point: (point.accuracy.value, -point.sent))


def curve(rule: str, scored: Scored) -> Curve:
    """Return the whole curve of ``rule`` over ``scored``, in O(N log N).

    Equal scores cannot be told apart: they are sent together or not at all. Between two scores the
    threshold lies in the middle, so that a score that is computed a little differently on the
    device is still on its side. The ends are 0 and 1. A score that lies on the scale's unsure end
    (an exit that says the same of every class, by entropy) is final at no threshold.

    >>> found = curve("confidence", Scored(
    ...     scores=torch.tensor([0.9, 0.5]),
    ...     exit_right=torch.tensor([True, False]),
    ...     cloud_right=torch.tensor([True, True])))
    >>> [(round(p.threshold, 2), p.sent, p.accuracy.value) for p in found.points]
    [(1.0, 2, 1.0), (0.7, 1, 1.0), (0.0, 0, 0.5)]
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    n, high = len(scored), RULES[rule].surest_is_high
    surest_first_N = scored.scores.double().argsort(descending=high)
    scores_N = scored.scores.double()[surest_first_N]
    gains_N = (scored.exit_right.int() - scored.cloud_right.int())[surest_first_N]
    right_N = int(scored.cloud_right.sum()) + gains_N.cumsum(0)
    last_G = (scores_N.diff() != 0).nonzero()[:, 0]  # of each group but the last
    surer = scores_N[last_G].tolist()
    unsurer = scores_N[last_G + 1].tolist()
    strictest, laxest = (1.0, 0.0) if high else (0.0, 1.0)
    thresholds = [strictest, *map(_between, surer, unsurer)]
    final = [0, *(last_G + 1).tolist()]
    right = [int(scored.cloud_right.sum()), *right_N[last_G].tolist()]
    if float(scores_N[-1]) != laxest:
        thresholds.append(laxest)
        final.append(n)
        right.append(int(scored.exit_right.sum()))
    rows = zip(thresholds, final, right, strict=True)
    points = (Point(threshold=t, sent=n - k, accuracy=Rate.of(r, n)) for t, k, r in rows)
    return Curve(rule=rule, points=tuple(points))


def _between(surer: float, unsurer: float) -> float:
    """Return a threshold that takes ``surer`` and not ``unsurer``, in the middle if there is one.

    Neighbours in float64 have none: then it is ``unsurer``, as no rule takes its own threshold.
    """
    middle = (surer + unsurer) / 2
    return unsurer if middle == surer else middle


def measured(rule: ExitRule, scored: Scored) -> Point:
    """Return what ``rule`` does to examples that have not chosen its threshold."""
    final_N = rule.takes(scored.scores.double())
    right_N = torch.where(final_N, scored.exit_right, scored.cloud_right)
    return Point(
        threshold=rule.threshold,
        sent=len(scored) - int(final_N.sum()),
        accuracy=Rate.of(int(right_N.sum()), len(scored)),
    )


def calibrate(
    points: Curve, *, target_accuracy: float | None = None, target_share: float | None = None
) -> tuple[ExitRule, Point]:
    """Return the rule that sends least at an accuracy, or is the most accurate at a share sent.

    Exactly one target is given. The point is that of the examples which chose it.

    Raises:
        ConfigError: none or both targets, one outside [0, 1], or one that cannot be reached.
    """
    if target_accuracy is not None and target_share is None:
        point = points.with_accuracy(target_accuracy)
    elif target_share is not None and target_accuracy is None:
        point = points.with_share(target_share)
    else:
        raise ConfigError("expected one of target_accuracy and target_share, not none and not both")
    return RULES[points.rule](threshold=point.threshold), point


def _expect_share(name: str, target: float) -> None:
    if not 0 <= target <= 1:
        raise ConfigError(f"expected a target {name} in [0, 1], got {target}")
