r"""The analytic Gaussian mechanism in plain floats: an edge device needs no library for it.

Noise N(0, sigma^2) on what two inputs can move apart by at most Delta (L2 norm) has one parameter
that counts, mu = Delta / sigma. Source: Balle and Wang, *Improving the Gaussian Mechanism for
Differential Privacy* (ICML 2018), Theorem 8::

    delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)

With a = eps/mu + mu/2 and b = eps/mu - mu/2, e^eps is e^((a^2 - b^2) / 2). So::

    delta(eps) = e^(-b^2 / 2) (M(b) - M(a))       M(x) = e^(x^2 / 2) Phi(-x)

which does not overflow where e^eps does.
"""

from collections.abc import Callable
from math import erfc, exp, inf, log, pi, sqrt

_SERIES_FROM = 8.0  # from here on 16 terms of the asymptotic series are exact to 1e-16


def _scaled_tail(x: float) -> float:
    """Return M(x) = e^(x^2 / 2) Phi(-x) for x >= 0."""
    t = x / sqrt(2)
    if t < _SERIES_FROM:
        return exp(t * t) * erfc(t) / 2
    total = term = 1.0  # Abramowitz and Stegun 7.1.23
    for n in range(1, 17):
        term *= -(2 * n - 1) / (2 * t * t)
        total += term
    return total / (t * sqrt(pi)) / 2


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the least delta at which a release of parameter ``mu`` is (epsilon, delta)-DP.

    >>> f"{gaussian_delta(1.0, 1.0):.6f}"
    '0.126937'
    """
    a, b = epsilon / mu + mu / 2, epsilon / mu - mu / 2
    if b >= 0:
        return exp(-b * b / 2) * (_scaled_tail(b) - _scaled_tail(a))
    return erfc(b / sqrt(2)) / 2 - exp(-b * b / 2) * _scaled_tail(a)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon >= 0 of a release of parameter ``mu`` at ``delta``; never too small.

    >>> f"{gaussian_epsilon(1.0, 1e-5):.4f}"
    '4.3772'
    """
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    # By Phi(-x) <= e^(-x^2 / 2) alone, without the second term.
    high = mu * mu / 2 + mu * sqrt(-2 * log(delta))
    if high == inf:
        return inf
    return smallest(lambda epsilon: gaussian_delta(epsilon, mu) <= delta, 0.0, high)


def smallest(
    holds: Callable[[float], bool], low: float, high: float, tolerance: float = 1e-13
) -> float:
    """Return the least number between ``low`` and ``high`` that ``holds``, by bisection.

    ``holds`` is true at ``high`` and above the number wanted, false at ``low``. What is returned
    holds, and is too large by ``tolerance`` of itself at most.

    >>> f"{smallest(lambda x: x * x >= 2, 0.0, 2.0):.9f}"
    '1.414213562'
    """
    while high - low > tolerance * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
