"""What releases cost, against definitions, other libraries and laws; and what is said about it."""

import subprocess
import sys
from collections.abc import Callable
from math import exp, inf, log, sqrt

import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from eaves.errors import BudgetExceeded, ConfigError
from eaves.privacy.accounting import (
    LAWS,
    UNITS,
    Budget,
    Guarantee,
    Release,
    guarantee,
    scale_for,
    statement,
)
from eaves.privacy.gaussian import gaussian_epsilon

SCALES = st.floats(0.05, 50)
LEAST = {"gaussian": 1e-5, "laplace": 0.0, "none": 0.0}  # a delta that each law accepts


def _release(law: str = "gaussian", scale: float = 1.0, values: int = 64) -> Release:
    """Return a release of values in [-1, 1]."""
    norm = values if law == "laplace" else sqrt(values)
    return Release(
        law=law,
        scale=scale,
        element_sensitivity=2.0,
        tensor_sensitivity=2.0 * norm,
        values=values,
    )


# One release


@pytest.mark.parametrize(("unit", "epsilon"), [("element", 4.0), ("tensor", 256.0)])
def test_one_laplace_release_is_pure(unit: str, epsilon: float) -> None:
    cost = guarantee(_release("laplace", 0.5), unit=unit, delta=1e-5)
    assert (cost.epsilon, cost.delta, cost.releases, cost.unit) == (epsilon, 0.0, 1, unit)


@pytest.mark.parametrize(("unit", "mu"), [("element", 4.0), ("tensor", 32.0)])
def test_one_gaussian_release_is_the_closed_form(unit: str, mu: float) -> None:
    cost = guarantee(_release("gaussian", 0.5), unit=unit, delta=1e-5)
    assert cost.epsilon == gaussian_epsilon(mu, 1e-5)
    assert cost.delta == 1e-5


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("unit", UNITS)
def test_without_noise_there_is_no_guarantee(law: str, unit: str) -> None:
    cost = guarantee(_release(law, 0.0), unit=unit, releases=3, delta=1e-5)
    assert cost.epsilon == inf
    assert "no guarantee" in str(cost)


# Several releases


@pytest.mark.parametrize("releases", [2, 7, 50])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_gaussian_releases_compose_as_dp_accounting_says(releases: int, scale: float) -> None:
    cost = guarantee(_release("gaussian", scale), unit="element", releases=releases, delta=1e-5)
    one = privacy_loss_distribution.from_gaussian_mechanism(
        scale, sensitivity=2.0, value_discretization_interval=1e-3
    )
    theirs = one.self_compose(releases).get_epsilon_for_delta(1e-5)
    assert cost.epsilon == pytest.approx(theirs, rel=1e-3)
    assert cost.epsilon <= theirs * (1 + 1e-9)  # theirs is rounded up


# prv-accountant 0.2.0: PRVAccountant(LaplaceMechanism(mu=epsilon), eps_error=1e-3,
# delta_error=1e-9).compute_epsilon(1e-5, [releases]), its lower and upper bound.
@pytest.mark.parametrize(
    ("one", "releases", "low", "high"),
    [
        (1.0, 2, 1.998822, 2.000822),
        (1.0, 10, 9.988819, 9.990820),
        (0.1, 100, 4.218786, 4.220829),
        (0.5, 30, 12.203830, 12.205912),
        (2.0, 5, 9.998595, 10.000595),
    ],
)
def test_laplace_releases_compose_as_prv_accountant_says(
    one: float, releases: int, low: float, high: float
) -> None:
    cost = guarantee(_release("laplace", 2.0 / one), unit="element", releases=releases, delta=1e-5)
    assert low < cost.epsilon < high
    assert cost.delta == 1e-5


def _delta_of_one_laplace(epsilon: float, one: float) -> float:
    """Return the closed form of one release; also for negative ``epsilon``."""
    if epsilon >= one:
        return 0.0
    return 1 - exp((epsilon - one) / 2) if epsilon > -one else 1 - exp(epsilon)


def _delta_of_two_laplace(epsilon: float, one: float) -> float:
    """Return the mean of the second release's delta over the loss of the first, integrated."""

    def density(loss: float) -> float:
        return exp((loss - one) / 2) / 4 * _delta_of_one_laplace(epsilon - loss, one)

    between, _ = quad(density, -one, one, points=[epsilon - one, 0.0], epsabs=1e-14)
    atoms = _delta_of_one_laplace(epsilon - one, one) / 2
    atoms += exp(-one) / 2 * _delta_of_one_laplace(epsilon + one, one)
    return float(between) + atoms


@pytest.mark.parametrize("one", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_two_laplace_releases_are_the_definition_integrated(one: float, delta: float) -> None:
    cost = guarantee(_release("laplace", 2.0 / one), unit="element", releases=2, delta=delta)
    # Rounded up, and by 1e-5 at most.
    assert _delta_of_two_laplace(cost.epsilon, one) <= delta * (1 + 1e-6)
    assert _delta_of_two_laplace(cost.epsilon * (1 - 1e-5), one) > delta


@pytest.mark.parametrize("values", [2, 16])
@pytest.mark.parametrize("whole", [0.5, 4.0])
def test_one_laplace_variable_gives_away_more_than_values_that_share_its_shift(
    values: int, whole: float
) -> None:
    """That is why a tensor may be counted as one variable; see guarantee()."""
    shared = privacy_loss_distribution.from_laplace_mechanism(
        values / whole, value_discretization_interval=whole / 3e4
    ).self_compose(values)
    for epsilon in (0.0, 0.25 * whole, 0.5 * whole, 0.9 * whole):
        delta = shared.get_delta_for_epsilon(epsilon)
        assert delta < _delta_of_one_laplace(epsilon, whole)


@pytest.mark.parametrize("unit", UNITS)
def test_laplace_at_delta_0_is_the_sum(unit: str) -> None:
    one = guarantee(_release("laplace"), unit=unit, delta=0)
    several = guarantee(_release("laplace"), unit=unit, releases=9, delta=0)
    assert several.epsilon == 9 * one.epsilon
    assert several.delta == 0


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.5])
@pytest.mark.parametrize("releases", [2, 7, 100])
def test_sums_that_are_near_to_overflow_are_counted_in_silence(releases: int, delta: float) -> None:
    """The accountant divides by e^-epsilon, and a warning fails a test."""
    for total in range(540, 780, 8):
        noisy = _release("laplace", 2.0 * releases / total)
        cost = guarantee(noisy, unit="element", releases=releases, delta=delta)
        assert cost.epsilon <= total * (1 + 1e-9)
        assert cost.delta == (0.0 if total > 600 else delta)


def test_the_pure_sum_is_taken_where_composing_saves_nothing() -> None:
    cost = guarantee(_release("laplace", 1e-3), unit="tensor", releases=4, delta=1e-5)
    assert (cost.epsilon, cost.delta) == (4 * 128 / 1e-3, 0.0)


def test_a_second_release_never_seems_to_cost_less_than_nothing() -> None:
    """One Laplace release is stated as pure; a generous delta would cover two of them."""
    noisy = _release("laplace", 2000.0)
    costs = [guarantee(noisy, unit="element", releases=n, delta=0.1).epsilon for n in (1, 2, 3)]
    assert costs == [1e-3] * 3


# Laws


@settings(deadline=None, max_examples=40)
@given(
    law=st.sampled_from(["gaussian", "laplace"]),
    unit=st.sampled_from(list(UNITS)),
    scale=SCALES,
    releases=st.integers(1, 6),
    delta=st.floats(1e-9, 0.1),
    more=st.floats(1.01, 3),
)
def test_monotony(
    law: str, unit: str, scale: float, releases: int, delta: float, more: float
) -> None:
    def cost(scale: float, releases: int, delta: float) -> float:
        found = guarantee(_release(law, scale), unit=unit, releases=releases, delta=delta)
        return found.epsilon * (1 - 2e-5)  # what the accountant may round up

    epsilon = guarantee(_release(law, scale), unit=unit, releases=releases, delta=delta).epsilon
    assert cost(scale * more, releases, delta) <= epsilon
    assert cost(scale, releases, min(0.9, delta * more)) <= epsilon
    assert (
        epsilon * (1 - 2e-5)
        <= guarantee(_release(law, scale), unit=unit, releases=releases + 1, delta=delta).epsilon
    )


@settings(deadline=None)
@given(scale=SCALES, values=st.integers(1, 10_000))
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_a_tensor_costs_as_much_as_an_element_or_more(law: str, scale: float, values: int) -> None:
    noisy = _release(law, scale, values)
    element, tensor = (guarantee(noisy, unit=u, delta=LEAST[law]).epsilon for u in UNITS)
    assert tensor >= element
    if law == "laplace":
        assert tensor == pytest.approx(values * element, rel=1e-12)


# Calibration


@settings(deadline=None)
@given(
    law=st.sampled_from(["gaussian", "laplace"]),
    epsilon=st.floats(0.01, 1000),
    delta=st.floats(1e-12, 0.1),
    values=st.integers(1, 1000),
    releases=st.integers(1, 100),
)
def test_the_scale_for_a_target_is_enough_and_no_less_would_be(
    law: str, epsilon: float, delta: float, values: int, releases: int
) -> None:
    if law == "laplace":
        delta = 0.0  # with the accountant: below
    sensitivity = _release(law, 1.0, values).tensor_sensitivity
    scale = scale_for(law, epsilon=epsilon, delta=delta, sensitivity=sensitivity, releases=releases)
    for part, enough in ((1.0, True), (1 - 1e-6, False)):
        noisy = _release(law, scale * part, values)
        cost = guarantee(noisy, unit="tensor", releases=releases, delta=delta)
        assert (cost.epsilon <= epsilon) == enough


@pytest.mark.parametrize(("epsilon", "releases"), [(1.0, 2), (5.0, 10), (0.5, 100)])
def test_the_scale_of_several_laplace_releases(epsilon: float, releases: int) -> None:
    scale = scale_for("laplace", epsilon=epsilon, delta=1e-5, sensitivity=2.0, releases=releases)
    assert scale < releases * 2.0 / epsilon
    for part, enough in ((1.0, True), (0.999, False)):
        noisy = _release("laplace", scale * part)
        cost = guarantee(noisy, unit="element", releases=releases, delta=1e-5)
        assert (cost.epsilon <= epsilon) == enough


# diffprivlib 0.6.6, GaussianAnalytic(epsilon=, delta=, sensitivity=)._scale
@pytest.mark.parametrize(
    ("epsilon", "delta", "sensitivity", "scale"),
    [
        (0.1, 1e-5, 1.0, 30.749566131972788),
        (1.0, 1e-5, 2.0, 7.461263269629647),
        (8.0, 1e-6, 2.0, 1.3058707680176762),
        (0.5, 1e-3, 1.0, 4.610127950728133),
    ],
)
def test_the_gaussian_scale_is_that_of_diffprivlib(
    epsilon: float, delta: float, sensitivity: float, scale: float
) -> None:
    found = scale_for("gaussian", epsilon=epsilon, delta=delta, sensitivity=sensitivity)
    assert found == pytest.approx(scale, rel=2e-7)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: scale_for("gaussian", epsilon=0, delta=0.1, sensitivity=1), "epsilon above 0"),
        (lambda: scale_for("laplace", epsilon=-1, delta=0, sensitivity=1), "epsilon above 0"),
        (lambda: scale_for("laplace", epsilon=inf, delta=0, sensitivity=1), "epsilon above 0"),
        (lambda: scale_for("laplace", epsilon=1, delta=0, sensitivity=0), "sensitivity above 0"),
        (lambda: scale_for("gaussian", epsilon=1, delta=0, sensitivity=1), "needs a delta"),
        (lambda: scale_for("gaussian", epsilon=1, delta=1, sensitivity=1), "delta of at least 0"),
        (lambda: scale_for("laplace", epsilon=1, delta=-1, sensitivity=1), "delta of at least 0"),
        (lambda: scale_for("none", epsilon=1, delta=0, sensitivity=1), "without noise"),
        (lambda: scale_for("gauss", epsilon=1, delta=0, sensitivity=1), "unknown noise law"),
        (
            lambda: scale_for("laplace", epsilon=1, delta=0, sensitivity=1, releases=0),
            "1 release or more",
        ),
        (lambda: guarantee(_release(), unit="pixel", delta=0.1), "unknown unit"),
        (lambda: guarantee(_release(), unit="tensor", delta=0), "needs a delta"),
        (lambda: guarantee(_release(), unit="tensor", delta=1), "delta of at least 0"),
        (lambda: guarantee(_release(), unit="tensor", delta=0.1, releases=0), "1 release"),
        (lambda: _release("gauss"), "unknown noise law"),
        (lambda: _release(scale=-1.0), "noise scale of 0 or more"),
        (lambda: _release(scale=inf), "noise scale of 0 or more"),
        (lambda: _release("none", 1.0), "scale 0"),
        (lambda: _release(values=0), "1 value or more"),
        (lambda: Budget(epsilon=0, delta=0.1), "epsilon above 0"),
        (lambda: Budget(epsilon=inf, delta=0.1), "epsilon above 0"),
        (lambda: Budget(epsilon=1, delta=1), "delta of at least 0"),
        (lambda: Budget(epsilon=1, delta=0, unit="image"), "unknown unit"),
        (lambda: Guarantee(unit="image", epsilon=1, delta=0, releases=1), "unknown unit"),
        (lambda: Guarantee(unit="tensor", epsilon=-1, delta=0, releases=1), "epsilon of 0"),
        (lambda: Guarantee(unit="tensor", epsilon=1, delta=2, releases=1), "delta of at"),
        (lambda: Guarantee(unit="tensor", epsilon=1, delta=0, releases=0), "1 release"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("law", "element", "tensor"),
    [
        ("laplace", 2.0, 1.9),  # all values move as far as one of them, or farther
        ("laplace", 2.0, 8.1),
        ("gaussian", 2.0, 4.1),  # sqrt(4) * 2
        ("gaussian", 0.0, 0.0),
        ("gaussian", inf, inf),
    ],
)
def test_sensitivities_that_cannot_be_together_are_refused(
    law: str, element: float, tensor: float
) -> None:
    with pytest.raises(ConfigError, match="sensitivity"):
        Release(law=law, scale=1, element_sensitivity=element, tensor_sensitivity=tensor, values=4)


# What must be installed


def test_an_edge_needs_neither_torch_nor_a_library_for_one_release() -> None:
    code = """
import sys
from eaves.privacy.accounting import Release, guarantee, scale_for, statement
for law, delta in (("gaussian", 1e-5), ("laplace", 0)):
    r = Release(law=law, scale=1, element_sensitivity=1, tensor_sensitivity=1, values=1)
    for releases in (1, 5):
        guarantee(r, unit="tensor", releases=releases, delta=delta)
        statement(r, releases=releases, delta=delta, source="it")
        scale_for(law, epsilon=1, delta=delta, sensitivity=1, releases=releases)
sys.exit(bool({"torch", "numpy", "scipy", "dp_accounting"} & set(sys.modules)))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_several_laplace_releases_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    assert guarantee(_release("laplace"), unit="tensor", delta=1e-5).delta == 0
    with pytest.raises(
        ConfigError, match=r'pip install "eaves\[lab\]"; a delta of 0 needs nothing'
    ):
        guarantee(_release("laplace"), unit="element", releases=2, delta=1e-5)


# Budgets


def test_what_fits_the_budget_is_returned() -> None:
    budget = Budget(epsilon=10.0, delta=1e-5, unit="element")
    cost = budget.expect_within(_release(scale=1.0), releases=1)
    assert cost == guarantee(_release(scale=1.0), unit="element", delta=1e-5)


def test_the_budget_is_for_the_tensor_unless_it_says_element() -> None:
    assert Budget(epsilon=1, delta=0).unit == "tensor"


@pytest.mark.parametrize(("law", "releases"), [("gaussian", 1), ("gaussian", 3), ("laplace", 3)])
def test_a_target_is_a_budget_that_its_scale_keeps(law: str, releases: int) -> None:
    budget = Budget(epsilon=3.0, delta=LEAST[law])
    scale = scale_for(
        law,
        epsilon=3.0,
        delta=LEAST[law],
        sensitivity=_release(law).tensor_sensitivity,
        releases=releases,
    )
    assert budget.expect_within(_release(law, scale), releases=releases).epsilon <= 3.0


@pytest.mark.parametrize(("law", "releases"), [("gaussian", 1), ("gaussian", 3), ("laplace", 2)])
def test_what_does_not_fit_says_by_how_much_and_what_would(law: str, releases: int) -> None:
    budget = Budget(epsilon=1.0, delta=LEAST[law])
    with pytest.raises(BudgetExceeded) as raised:
        budget.expect_within(_release(law, 2.0), releases=releases)
    text = str(raised.value)
    cost = guarantee(_release(law, 2.0), unit="tensor", releases=releases, delta=LEAST[law])
    excess = float(text.partition("that is ")[2].split()[0])
    assert excess == pytest.approx(cost.epsilon - 1.0, rel=1e-3)
    assert str(cost) in text
    assert ("send less often" in text) == (releases > 1)
    enough = float(text.partition("at least ")[2].split()[0])  # as printed, so rounded up
    budget.expect_within(_release(law, enough), releases=releases)
    with pytest.raises(BudgetExceeded):
        budget.expect_within(_release(law, enough * 0.99), releases=releases)


def test_no_noise_is_never_within_a_budget() -> None:
    budget = Budget(epsilon=1e9, delta=0.1)
    with pytest.raises(
        BudgetExceeded, match=r"without noise nothing is within .* choose the noise"
    ):
        budget.expect_within(_release("none", 0.0), releases=1)
    with pytest.raises(BudgetExceeded, match=r"must be at least .* instead of 0"):
        budget.expect_within(_release("gaussian", 0.0), releases=1)


# Words


def test_a_guarantee_is_never_printed_without_what_it_is_about() -> None:
    printed = str(Guarantee(unit="element", epsilon=123456.7, delta=1e-6, releases=1))
    expected = "epsilon = 123,457 at delta = 1e-06 per element, over 1 release, for any two inputs"
    assert printed == expected


def _statement(law: str, scale: float, releases: int) -> str:
    lines = statement(_release(law, scale), releases=releases, delta=1e-5, source="THE SOURCE")
    assert all(line.endswith(".") for line in lines)
    return "\n".join(lines)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("releases", [1, 4])
def test_the_statement_says_what_is_proven_and_what_is_not(law: str, releases: int) -> None:
    text = _statement(law, 3.0, releases)
    for unit in UNITS:
        for n in {1, releases}:
            cost = guarantee(_release(law, 3.0), unit=unit, releases=n, delta=1e-5)
            assert str(cost) in text
    for words in (
        "any two inputs (local differential privacy)",
        "Outside any guarantee: the task labels",
        "adversary has no formal guarantee",
        "comes from THE SOURCE.",
        "(Mironov 2012)",
        "64 values",
        {
            "gaussian": "Gaussian noise of standard deviation 3",
            "laplace": "Laplace noise of scale 3",
        }[law],
    ):
        assert words in text
    assert ("sent 4 times" in text) == (releases == 4)
    for line in text.splitlines():
        if "epsilon = " in line:
            assert "per element, over" in line or "per tensor, over" in line
            assert "any two inputs" in line


def test_the_statement_without_noise_promises_nothing() -> None:
    for law in LAWS:
        text = _statement(law, 0.0, 2)
        assert "no formal guarantee: epsilon is infinite" in text
        assert "epsilon = " not in text
        assert "task labels" in text


def test_the_statement_tells_a_small_epsilon_from_one_that_means_nothing() -> None:
    total = guarantee(_release("laplace", 128.0 / log(3)), unit="tensor", delta=0)
    assert total.epsilon == pytest.approx(log(3))
    assert "by a factor of at most 3 (e to" in _statement("laplace", 128.0 / log(3), 1)
    assert "next to nothing" not in _statement("laplace", 128.0 / 9.9, 1)
    assert "next to nothing" in _statement("laplace", 128.0 / 10.1, 1)
    assert "except with a probability of about 1e-05" in _statement("gaussian", 20.0, 1)
