"""Wilson's interval against published examples and against scipy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from eaves.core.rates import Rate

COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
# (1998), Table I, method 3 (score method without continuity correction).
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    rate = Rate.of(successes, n)
    assert (round(rate.low, 4), round(rate.high, 4)) == (low, high)
    assert rate.value == successes / n
    assert rate.n == n


@settings(deadline=None)  # a busy machine is no failure
@given(counts=COUNTS)
def test_the_interval_is_that_of_scipy(counts: tuple[int, int]) -> None:
    rate = Rate.of(*counts)
    expected = binomtest(*counts).proportion_ci(method="wilson")
    assert rate.low == pytest.approx(expected.low, abs=1e-12)
    assert rate.high == pytest.approx(expected.high, abs=1e-12)


@given(counts=COUNTS)
def test_the_interval_holds_the_value_and_mirrors_that_of_the_failures(
    counts: tuple[int, int],
) -> None:
    successes, n = counts
    rate, failures = Rate.of(successes, n), Rate.of(n - successes, n)
    assert 0 <= rate.low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= rate.high <= 1
    assert rate.low == pytest.approx(1 - failures.high, abs=1e-12)
    assert rate.high - rate.low > 0


def test_more_trials_make_it_narrower() -> None:
    widths = [Rate.of(3 * n, 4 * n) for n in (1, 10, 100, 1000)]
    assert [r.high - r.low for r in widths] == sorted(
        (r.high - r.low for r in widths), reverse=True
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3), (0, -1)])
def test_counts_that_cannot_be_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        Rate.of(successes, n)


def test_a_rate_becomes_json_by_name() -> None:
    assert Rate(0.5, 0.25, 0.75, 8).as_json() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}


# Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
# Medicine 17 (1998), Table II, method 10.
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    a, b = Rate.of(*first), Rate.of(*second)
    gap, below, above = a.minus(b)
    assert gap == a.value - b.value
    assert (round(below, 4), round(above, 4)) == (low, high)
    assert b.minus(a) == pytest.approx((-gap, -above, -below))
