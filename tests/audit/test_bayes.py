"""The Bayes attacker against Bayes' rate, where that is known.

Rates are held against it with 4 standard errors. Dimension key:  N examples   F features
"""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from eaves.audit.attribute import BAYES, Budget, attack
from eaves.audit.bayes import SHRUNK, WIDTHS, likelihoods
from eaves.audit.findings import Finding
from eaves.audit.knowledge import Exposure
from eaves.audit.trial import Trial

Build = Callable[..., Exposure]
pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def coins(n: int, seed: int, share: float = 0.5) -> Tensor:
    return (torch.rand(n, generator=seeded(seed)) < share).long()


def read(exposure: Exposure) -> Finding:
    *_, found = attack(exposure, attackers=[BAYES], budget=Budget(), generator=seeded())
    assert isinstance(found, Finding)
    return found


def error(rate: float, n: int) -> float:
    return sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize(("law", "scale"), [("gaussian", 1.0), ("laplace", 1.0)])
def test_it_reads_at_the_rate_of_bayes(exposed: Build, law: str, scale: float) -> None:
    """One value of +-1 under noise of scale 1; the others say nothing."""
    private_N = coins(4000, 1)
    features_NF = torch.zeros(4000, 4)
    features_NF[:, 0] = 2.0 * private_N - 1
    bayes = norm.cdf(1) if law == "gaussian" else 1 - 0.5 * torch.tensor(-1.0).exp().item()
    found = read(exposed(features_NF, private_N, victims=2000, law=law, scale=scale))
    assert found.reading.rate.value == pytest.approx(bayes, abs=4 * error(bayes, 2000))


def test_many_kinds_of_examples_under_noise_are_a_mixture(exposed: Build) -> None:
    """Four places on a ring, classes by turns: no line and no Gaussian tells them apart."""
    places = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    kind_N = torch.randint(4, (4000,), generator=seeded(1))
    exposure = exposed(places[kind_N], kind_N % 2, victims=2000, scale=1.0)
    # The sign of |x| - |y|: right if both of the turned halves are, or neither.
    half = norm.cdf(2 / sqrt(2))
    bayes = half**2 + (1 - half) ** 2
    assert read(exposure).reading.rate.value == pytest.approx(bayes, abs=4 * error(bayes, 2000))


def test_without_noise_it_reads_what_gaussians_tell(exposed: Build) -> None:
    """Classes that differ in spread alone: the quadratic discriminant is that of Bayes."""
    private_N = coins(3000, 1)
    features_NF = normal(3000, 12, seed=2) * (1 + private_N.reshape(-1, 1))
    assert read(exposed(features_NF, private_N, victims=1000)).reading.rate.value > 0.9


def test_it_is_told_the_label(exposed: Build) -> None:
    """The private class is label XOR sign: neither tells anything without the other."""
    features_NF, labels_N = 3 * normal(2400, 2, seed=1), coins(2400, 2)
    private_N = labels_N ^ (features_NF[:, 0] > 0).long()
    assert read(exposed(features_NF, private_N, labels=labels_N)).reading.rate.value > 0.9
    assert not read(exposed(features_NF, private_N)).reading.beats_chance


def test_what_is_independent_stays_at_chance(exposed: Build) -> None:
    found = read(exposed(normal(2500, 6, seed=1), coins(2500, 2), victims=1000, scale=0.5))
    assert abs(found.reading.rate.value - 0.5) < 4 * error(0.5, 1000)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_each_way_answers_every_victim_with_finite_logits(exposed: Build, scale: float) -> None:
    """Three classes, of which one is rare; wide features, a constant among them."""
    private_N = torch.arange(600) % 3
    private_N[private_N == 2] = (torch.arange(200) % 20 == 0).long() * 2
    features = normal(600, 8, 4, 4, seed=1)
    features[:, 0] = 0.0
    trial = Trial(exposed(features, private_N, scale=scale), generator=seeded())
    rounds = list(likelihoods(trial, generator=seeded()))
    assert len(rounds) == rounds[0].total == len(WIDTHS) + 2 * len(SHRUNK)
    for at in rounds:
        assert at.victims.shape == (400, 3)
        assert len(at.held_out) == len(trial.held_out)
        assert bool(at.victims.isfinite().all() and at.held_out.isfinite().all())
