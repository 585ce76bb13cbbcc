"""What releases give away: noise to (epsilon, delta), and back. No torch.

A release is one payload made of one input: its values are bounded, noise is added, and it leaves.

- **Neighbours** are any two inputs (local differential privacy): whoever reads what is sent, the
  cloud included, can hardly tell which of the two it was made of.
- **Unit** ``tensor``: the whole payload, so it is about the input. Unit ``element``: one value of
  the payload, seen alone. One input moves all values at once, so the element's epsilon says
  nothing about the input as a whole.
- **Sensitivity**: how far two inputs can move the unit apart; L1 norm for Laplace noise, L2 norm
  for Gaussian noise.
- Sending an input again with fresh noise composes.

Not guaranteed: anything about what is sent beside the values, such as labels; anything against
who knows the noise's key or seed; the last bits of floating-point numbers (:func:`statement`).

Closed forms need nothing but Python. Laplace noise that is sent several times is composed by
dp-accounting, of the extra ``lab``.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from math import exp, inf, isfinite, log, sqrt
from typing import final

from eaves.errors import BudgetExceeded, ConfigError, unknown
from eaves.privacy.gaussian import gaussian_epsilon, smallest

LAWS = {
    "gaussian": "the scale is the standard deviation; needs a delta above 0",
    "laplace": "the scale is b of exp(-|x| / b) / 2b; one release is pure, its delta is 0",
    "none": "nothing is added: no guarantee",
}
UNITS = {
    "element": "one value of what is sent, seen alone",
    "tensor": "all of what is sent",
}
_NORMS = {"gaussian": "L2", "laplace": "L1", "none": "L2"}
_STEPS = 300  # of the accountant's grid, per epsilon of one release: 1e-5 of the total, or better
_PURE_FROM = 600.0  # of the sum: odds that nothing is left of; from 700 on e^epsilon overflows
_MODEST = 10.0  # of epsilon: odds of 22,000 to 1, far beyond what is usually called private


def expect_noise(law: str, scale: float) -> None:
    """Raise :class:`ConfigError` unless there is such a law and it can have such a scale."""
    if law not in LAWS:
        raise unknown("noise law", law, LAWS)
    if not (isfinite(scale) and scale >= 0):
        raise ConfigError(f"expected a noise scale of 0 or more, and finite, got {scale}")
    if law == "none" and scale != 0:
        raise ConfigError(f"the noise law 'none' has the scale 0, got {scale}; choose another law")


@final
@dataclass(frozen=True, kw_only=True)
class Release:
    """What is known in advance about one payload of one input.

    Raises:
        ConfigError: no such law, or numbers that do not belong together.
    """

    law: str
    scale: float
    element_sensitivity: float
    """How far apart one value can be for two inputs: its range."""
    tensor_sensitivity: float
    """How far apart all values together can be: L1 norm for Laplace noise, else L2 norm."""
    values: int

    def __post_init__(self) -> None:
        expect_noise(self.law, self.scale)
        if self.values < 1:
            raise ConfigError(f"expected a payload of 1 value or more, got {self.values}")
        element, tensor = self.element_sensitivity, self.tensor_sensitivity
        if not (isfinite(element) and element > 0):
            raise ConfigError(f"expected a sensitivity above 0, and finite, got {element}")
        most = element * (self.values if self.law == "laplace" else sqrt(self.values))
        if not element * (1 - 1e-9) <= tensor <= most * (1 + 1e-9):
            raise ConfigError(
                f"expected a sensitivity of the tensor from {element:g} to {most:g}, which is what "
                f"{self.values} values of range {element:g} can have, got {tensor}"
            )

    def sensitivity(self, unit: str) -> float:
        """Return how far two inputs can move ``unit`` apart."""
        if unit not in UNITS:
            raise unknown("unit of a guarantee", unit, UNITS)
        return self.element_sensitivity if unit == "element" else self.tensor_sensitivity


@final
@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """``releases`` of one input are (epsilon, delta)-DP per ``unit``, any two inputs neighbours.

    An ``epsilon`` of infinity is no guarantee at all.

    >>> print(Guarantee(unit="tensor", epsilon=2.5, delta=1e-5, releases=3))
    epsilon = 2.5 at delta = 1e-05 per tensor, over 3 releases, for any two inputs
    """

    unit: str
    epsilon: float
    delta: float
    releases: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown("unit of a guarantee", self.unit, UNITS)
        if not self.epsilon >= 0:
            raise ConfigError(f"expected an epsilon of 0 or more, got {self.epsilon}")
        _expect_delta(self.delta)
        _expect_releases(self.releases)

    def __str__(self) -> str:
        over = f"per {self.unit}, over {_times(self.releases, 'release')}"
        if self.epsilon == inf:
            return f"no guarantee (epsilon is infinite) {over}"
        cost = f"epsilon = {_figure(self.epsilon)} at delta = {self.delta:g}"
        return f"{cost} {over}, for any two inputs"


def guarantee(release: Release, *, unit: str, releases: int = 1, delta: float) -> Guarantee:
    """Return what sending one input ``releases`` times, each with fresh noise, gives away.

    Exact for Gaussian noise, and for one release with Laplace noise, whose delta is 0. Several
    Laplace releases: the smaller of the pure sum, at delta 0, and what the accountant finds at
    ``delta``; above 600 it is the sum. One Laplace variable that moves by the whole L1
    sensitivity gives away at least as much as a tensor whose values share it, so that is what is
    composed; for a tensor this bounds epsilon from above.

    Raises:
        ConfigError: no such unit, a count or delta that cannot be, or dp-accounting is missing.

    Source: Balle and Wang 2018 (:mod:`eaves.privacy.gaussian`); Dwork and Roth 2014, Theorem 3.6,
    for Laplace; Dong, Roth and Su, *Gaussian Differential Privacy* (2022), for T releases being
    one of mu sqrt(T), and for group privacy, which gives the bound on a tensor.

    >>> noisy = Release(
    ...     law="laplace", scale=1, element_sensitivity=2, tensor_sensitivity=128, values=64
    ... )
    >>> print(guarantee(noisy, unit="element", delta=0))
    epsilon = 2 at delta = 0 per element, over 1 release, for any two inputs
    """
    sensitivity = release.sensitivity(unit)
    _expect_releases(releases)
    _expect_delta(delta)
    if release.scale == 0:
        return Guarantee(unit=unit, epsilon=inf, delta=delta, releases=releases)
    epsilon, at_delta = _spent(release.law, release.scale, sensitivity, releases, delta)
    return Guarantee(unit=unit, epsilon=epsilon, delta=at_delta, releases=releases)


def scale_for(
    law: str, *, epsilon: float, delta: float, sensitivity: float, releases: int = 1
) -> float:
    """Return the least noise scale at which ``releases`` of one input cost at most ``epsilon``.

    The inverse of :func:`guarantee`, which never finds more than ``epsilon`` for it. Too large by
    1e-7 of itself at most.

    Raises:
        ConfigError: numbers that cannot be, the law ``none``, or dp-accounting is missing.

    >>> scale_for("laplace", epsilon=4, delta=0, sensitivity=2)
    0.5
    """
    expect_noise(law, 0.0)
    if law == "none":
        raise ConfigError("without noise no epsilon can be kept; choose 'gaussian' or 'laplace'")
    for name, value in (("epsilon", epsilon), ("sensitivity", sensitivity)):
        if not (isfinite(value) and value > 0):
            raise ConfigError(f"expected a finite {name} above 0, got {value}")
    _expect_releases(releases)
    _expect_delta(delta)

    def enough(scale: float) -> bool:
        return _spent(law, scale, sensitivity, releases, delta)[0] <= epsilon

    high = _surely_enough(law, epsilon, delta) * sensitivity * releases
    while not enough(high):
        high *= 1 + 1e-15  # rounding
    if law == "laplace" and (releases == 1 or delta == 0):
        return high
    low = high / 2
    while enough(low):
        high, low = low, low / 2
    return smallest(enough, low, high, tolerance=1e-7)


def _surely_enough(law: str, epsilon: float, delta: float) -> float:
    """Return a scale that keeps ``epsilon`` for one release of sensitivity 1."""
    if law == "laplace":
        return 1 / epsilon
    _expect_positive_delta(delta)
    tail = sqrt(-2 * log(delta))  # mu^2 / 2 + mu tail = epsilon, see gaussian_epsilon
    return (sqrt(tail * tail + 2 * epsilon) + tail) / (2 * epsilon)


def _spent(
    law: str, scale: float, sensitivity: float, releases: int, delta: float
) -> tuple[float, float]:
    """Return the epsilon of ``releases``, and the delta that it holds at."""
    if law == "gaussian":
        _expect_positive_delta(delta)
        return gaussian_epsilon(sensitivity * sqrt(releases) / scale, delta), delta
    one, pure = sensitivity / scale, releases * sensitivity / scale
    if releases == 1 or delta == 0:
        return pure, 0.0
    # Not below `one`, else a second release would seem to cost less than nothing where delta is
    # so large that it covers both.
    composed = max(one, _composed_laplace(one, releases, delta))
    return (composed, delta) if composed < pure else (pure, 0.0)


def _composed_laplace(epsilon: float, releases: int, delta: float) -> float:
    """Return an upper bound of epsilon for several Laplace releases of ``epsilon`` each.

    It takes milliseconds for ten releases, 0.1 s for a thousand.
    """
    if releases * epsilon > _PURE_FROM:
        return inf
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError as error:
        raise ConfigError(
            "several Laplace releases at a delta above 0 need dp-accounting: "
            'pip install "eaves[lab]"; a delta of 0 needs nothing'
        ) from error
    loss = privacy_loss_distribution.from_laplace_mechanism(
        1 / epsilon, value_discretization_interval=epsilon / _STEPS, pessimistic_estimate=True
    )
    return float(loss.self_compose(releases).get_epsilon_for_delta(delta))


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that one input may cost: ``epsilon`` at ``delta``, per ``unit``, in total.

    Raises:
        ConfigError: numbers that cannot be, or no such unit.
    """

    epsilon: float
    delta: float
    unit: str = "tensor"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown("unit of a budget", self.unit, UNITS)
        if not (isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"expected a budget of a finite epsilon above 0, got {self.epsilon}")
        _expect_delta(self.delta)

    def expect_within(self, release: Release, *, releases: int) -> Guarantee:
        """Return what sending an input ``releases`` times costs; call it before anything is sent.

        Raises:
            BudgetExceeded: it costs more than the budget; the message says by how much.
            ConfigError: Gaussian noise with a delta of 0, or dp-accounting is missing.
        """
        cost = guarantee(release, unit=self.unit, releases=releases, delta=self.delta)
        if cost.epsilon <= self.epsilon:
            return cost
        raise BudgetExceeded(
            f"sending would give {cost}; {self._over(cost)} the budget of {self.epsilon:g}; "
            f"{self._instead(release, releases)}"
        )

    def _over(self, cost: Guarantee) -> str:
        if cost.epsilon == inf:
            return "without noise nothing is within"
        return f"that is {_figure(cost.epsilon - self.epsilon)} more than"

    def _instead(self, release: Release, releases: int) -> str:
        if release.law == "none":
            return "choose the noise law 'gaussian' or 'laplace'"
        scale = scale_for(
            release.law,
            epsilon=self.epsilon,
            delta=self.delta,
            sensitivity=release.sensitivity(self.unit),
            releases=releases,
        )
        upwards = Context(prec=4, rounding=ROUND_CEILING).create_decimal(scale)
        return f"the noise scale must be at least {upwards:g} instead of {release.scale:g}" + (
            ", or send less often" if releases > 1 else ""
        )


def statement(
    release: Release, *, releases: int, delta: float, source: str, labels_sent: bool = True
) -> list[str]:
    """Return the noise statement: what is proven about what is sent, and what is not, in sentences.

    ``source`` says where the noise comes from, as ``Source.about`` does; ``labels_sent`` whether
    task labels travel with the features. Source of the caveat
    about numbers: Mironov, *On Significance of the Least Significant Bits for Differential
    Privacy* (CCS 2012).

    Raises:
        ConfigError: as :func:`guarantee`.
    """
    labels = "the task labels, which are sent in the clear; " if labels_sent else ""
    outside = [
        f"Outside any guarantee: {labels}how many inputs are "
        "sent, and when; the weights of the edge part, should they be given away.",
        "Training against an adversary has no formal guarantee: what it hides is measured by "
        "attacks, and no epsilon counts it.",
    ]
    if release.scale == 0:
        return [
            "No noise is added, so there is no formal guarantee: epsilon is infinite, per element "
            "and per tensor, from the first release on.",
            *outside,
        ]
    return [
        _noise_sentence(release),
        *_cost_sentences(release, releases, delta),
        "Neighbours are any two inputs (local differential privacy). It holds against whoever "
        "reads what is sent, the cloud included, even if they know the edge part and the noise "
        "law.",
        "An input that is sent again counts again, in training or in use; so do inputs that are "
        "nearly the same, such as frames of one video.",
        *outside,
        f"The noise comes from {source}.",
        "All this is for exact numbers. Computers round, and the last bits of a rounded sum can "
        "give away more than the formulas say (Mironov 2012).",
    ]


def _noise_sentence(release: Release) -> str:
    law = {"gaussian": "Gaussian noise of standard deviation", "laplace": "Laplace noise of scale"}
    return (
        f"Each payload has {_times(release.values, 'value')}. Two inputs can differ by at most "
        f"{release.element_sensitivity:g} in one of them, and by at most "
        f"{_figure(release.tensor_sensitivity)} in all ({_NORMS[release.law]} norm). "
        f"{law[release.law]} {release.scale:g} is added to each before it leaves."
    )


def _cost_sentences(release: Release, releases: int, delta: float) -> list[str]:
    """Return a sentence for each unit, per release and in total, and what the total means."""
    counts = dict.fromkeys((1, releases))
    costs = {
        (unit, n): guarantee(release, unit=unit, releases=n, delta=delta)
        for unit in UNITS
        for n in counts
    }
    heads = {"element": "One value, seen alone", "tensor": "The whole payload"}
    sentences = [
        f"{heads[unit]}, {_sent(n, releases)}: {cost}." for (unit, n), cost in costs.items()
    ]
    return [*sentences, _meaning(costs["tensor", releases])]


def _sent(n: int, releases: int) -> str:
    if releases == 1:
        return "sent once, which is the total"
    return "per release" if n == 1 else f"in total (sent {n} times)"


def _meaning(total: Guarantee) -> str:
    """Return what the tensor's epsilon means for somebody who has never met one."""
    slip = f", except with a probability of about {total.delta:g}" if total.delta else ""
    if total.epsilon <= _MODEST:
        return (
            "In total, what is sent changes the odds between any two inputs by a factor of at most "
            f"{_figure(exp(total.epsilon))} (e to the epsilon per tensor){slip}."
        )
    return (
        f"The epsilon per tensor is above {_MODEST:g}: it allows the odds between two inputs to "
        f"change by a factor of more than {exp(_MODEST):,.0f}. As a proof about the whole input "
        "that is next to nothing; the epsilon per element is about one value only."
    )


def _figure(x: float) -> str:
    return f"{x:.4g}" if x < 9999.5 else f"{x:,.0f}"


def _times(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _expect_releases(releases: int) -> None:
    if releases < 1:
        raise ConfigError(f"expected 1 release or more, got {releases}")


def _expect_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise ConfigError(f"expected a delta of at least 0 and below 1, got {delta}")


def _expect_positive_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(
            f"Gaussian noise needs a delta between 0 and 1, got {delta}; take one far below 1 over "
            "the number of people, such as 1e-5, or Laplace noise"
        )
