"""The Gaussian closed form against its definition, high precision and two other libraries."""

from math import exp, inf, log, pi, sqrt

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from eaves.privacy.gaussian import gaussian_delta, gaussian_epsilon, smallest

MUS = st.floats(1e-3, 1e3)
DELTAS = st.floats(-30, -0.3).map(lambda exponent: 10.0**exponent)


@pytest.mark.parametrize(
    ("epsilon", "mu"), [(0.0, 1.0), (0.5, 1.0), (3.0, 1.0), (1.0, 0.3), (6.0, 2.0), (0.0, 0.01)]
)
def test_delta_is_the_definition_integrated(epsilon: float, mu: float) -> None:
    def excess(x: float) -> float:
        return max(0.0, float(norm.pdf(x, loc=mu) - exp(epsilon) * norm.pdf(x)))

    kink = epsilon / mu + mu / 2
    expected, _ = quad(excess, kink, kink + 40, epsabs=1e-13, epsrel=1e-10, limit=400)
    assert gaussian_delta(epsilon, mu) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("mu", [1e-4, 0.01, 0.3, 1.0, 5.0, 11.0, 40.0, 300.0])
@pytest.mark.parametrize("sigmas", [-12.0, -1.0, 0.0, 0.5, 3.0, 10.0, 12.0, 30.0])
def test_delta_is_that_of_fifty_digits(mu: float, sigmas: float) -> None:
    epsilon = max(0.0, mu * mu / 2 + sigmas * mu)  # so that b is `sigmas`
    with mpmath.workdps(400 if mu > 100 else 80):
        a = mpmath.mpf(epsilon) / mu + mpmath.mpf(mu) / 2
        b = mpmath.mpf(epsilon) / mu - mpmath.mpf(mu) / 2
        expected = mpmath.erfc(b / mpmath.sqrt(2)) / 2
        expected -= mpmath.e**epsilon * mpmath.erfc(a / mpmath.sqrt(2)) / 2
        # Some digits are lost: M(b) - M(a) cancels where mu is small, and a rounded b is squared.
        assert gaussian_delta(epsilon, mu) == pytest.approx(float(expected), rel=1e-9, abs=1e-300)


# autodp 0.2.3.1, dp_bank.get_eps_ana_gaussian(1 / mu, delta)
@pytest.mark.parametrize(
    ("mu", "delta", "epsilon"),
    [
        (0.05, 1e-5, 0.16004203445812842),
        (0.5, 1e-5, 1.9930914044151204),
        (1.0, 1e-5, 4.377178095681228),
        (2.0, 1e-6, 10.99715121422065),
        (10.0, 1e-5, 91.81728962466372),
    ],
)
def test_epsilon_is_that_of_autodp(mu: float, delta: float, epsilon: float) -> None:
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-7)


@settings(deadline=None)
@given(mu=MUS, delta=DELTAS)
def test_epsilon_is_the_least_that_is_enough(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(epsilon, mu) <= delta
    if epsilon > 0:
        assert gaussian_delta(epsilon * (1 - 1e-7), mu) > delta


@settings(deadline=None)
@given(mu=MUS, delta=DELTAS, more=st.floats(1.001, 10))
def test_more_signal_costs_more_and_more_delta_costs_less(
    mu: float, delta: float, more: float
) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_epsilon(mu * more, delta) >= epsilon
    assert gaussian_epsilon(mu, min(0.99, delta * more)) <= epsilon


def test_the_extremes() -> None:
    assert gaussian_epsilon(1e200, 1e-5) == inf
    assert gaussian_epsilon(1e-9, 1e-5) == 0
    # Two tails of a normal distribution are mu / sqrt(2 pi) apart.
    assert gaussian_delta(0.0, 1e-3) == pytest.approx(1e-3 / sqrt(2 * pi), rel=1e-6)
    # Far out epsilon is mu^2 / 2 and a tail of the loss, whose deviation is mu.
    mu = 1e4
    assert gaussian_epsilon(mu, 0.5) == pytest.approx(mu * mu / 2, rel=1e-7)
    assert gaussian_epsilon(mu, float(norm.sf(4))) == pytest.approx(mu * mu / 2 + 4 * mu, rel=1e-7)


@settings(deadline=None)
@given(wanted=st.floats(1e-6, 1e6))
def test_bisection_returns_what_holds(wanted: float) -> None:
    found = smallest(lambda x: x >= wanted, 0.0, 2e6)
    assert wanted <= found <= wanted * (1 + 1e-12)


def test_bisection_ends_where_floats_end() -> None:
    asked = []

    def holds(x: float) -> bool:
        asked.append(x)
        return log(x) >= 0

    assert smallest(holds, 0.5, 1.5, tolerance=0.0) == 1.0
    assert len(asked) < 60
