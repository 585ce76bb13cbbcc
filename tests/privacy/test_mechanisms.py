"""A mechanism does what its release says it does: statistics with a stated false-alarm rate."""

from math import exp, prod, sqrt

import pytest
import torch
from torch import Tensor

from eaves.errors import ConfigError, DivergedError
from eaves.privacy.accounting import guarantee, scale_for
from eaves.privacy.bounds import BOUNDS, Clip, L2Clip, Tanh, bound_named
from eaves.privacy.gaussian import gaussian_delta
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Keyed, Pseudo, Source

SHAPE = (2, 3, 3)
VALUES = prod(SHAPE)


def _features(batch: int = 5) -> Tensor:
    return 3 * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1))


def _gaussian(scale: float) -> Mechanism:
    return Mechanism(bound=Tanh(1.0), law="gaussian", scale=scale)


# What comes out


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_a_release_is_the_bounded_features_plus_scaled_noise(name: str, law: str) -> None:
    mechanism = Mechanism(bound=bound_named(name, 0.7), law=law, scale=0.25)
    z = _features()
    twin, within = Keyed.from_seed(3), bound_named(name, 0.7).apply(z)
    salt = within.numpy().tobytes()  # what the noise is added to
    noise = (twin.laplace if law == "laplace" else twin.normal)(z.shape, salt=salt)
    expected = within + 0.25 * noise
    assert torch.equal(mechanism.release(z, Keyed.from_seed(3)), expected)
    bounded = mechanism.bounded(z)
    assert torch.equal(mechanism.noised(bounded, Keyed.from_seed(3)), expected)


@pytest.mark.parametrize("law", ["gaussian", "laplace", "none"])
def test_without_noise_nothing_changes_and_nothing_is_drawn(law: str) -> None:
    mechanism = Mechanism(bound=Clip(1.0), law=law, scale=0.0)
    source = Keyed.from_seed(3)
    before = source.state()
    z = _features()
    assert torch.equal(mechanism.release(z, source), mechanism.bounded(z))
    assert torch.equal(source.state(), before)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_as_epsilon_grows_the_release_becomes_the_bounded_features(law: str) -> None:
    z = _features()
    farthest = []
    for epsilon in (1e2, 1e5, 1e9):
        delta = 1e-5 if law == "gaussian" else 0.0
        scale = scale_for(law, epsilon=epsilon, delta=delta, sensitivity=2.0)
        mechanism = Mechanism(bound=Tanh(1.0), law=law, scale=scale)
        moved = mechanism.release(z, Keyed.from_seed(0)) - mechanism.bounded(z)
        farthest.append(float(moved.abs().max()))
    assert farthest == sorted(farthest, reverse=True)
    assert farthest[-1] < 1e-3


def test_two_releases_of_one_input_have_fresh_noise() -> None:
    z, source = _features(), Keyed.from_seed(0)
    first, second = (_gaussian(0.5).release(z, source) for _ in range(2))
    assert not torch.isclose(first, second, atol=1e-6).any()


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_gradients_go_through(law: str) -> None:
    mechanism = Mechanism(bound=Tanh(1.0), law=law, scale=0.5)
    z = _features().requires_grad_()
    (found,) = torch.autograd.grad(mechanism.release(z, Keyed.from_seed(0)).sum(), z)
    (expected,) = torch.autograd.grad(torch.tanh(z).sum(), z)
    assert torch.equal(found, expected)


# What it is accounted as


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_the_release_names_the_sensitivity_that_its_law_needs(name: str, law: str) -> None:
    release = Mechanism(bound=bound_named(name, 1.5), law=law, scale=2.0).release_of(SHAPE)
    assert (release.law, release.scale, release.values) == (law, 2.0, VALUES)
    assert release.element_sensitivity == 3.0
    tensor = {
        ("tanh", "laplace"): 3.0 * VALUES,
        ("clip", "laplace"): 3.0 * VALUES,
        ("l1", "laplace"): 3.0,
        ("l2", "laplace"): 3.0 * sqrt(VALUES),
        ("tanh", "gaussian"): 3.0 * sqrt(VALUES),
        ("clip", "gaussian"): 3.0 * sqrt(VALUES),
        ("l1", "gaussian"): 3.0,
        ("l2", "gaussian"): 3.0,
    }
    assert release.tensor_sensitivity == tensor[name, law]


def _rate_above(mechanism: Mechanism, z: Tensor, threshold: float, n: int, seed: int) -> float:
    """Return how often a release of one value ``z`` is above ``threshold``."""
    sent_N = mechanism.release(z.expand(n, 1), Keyed.from_seed(seed))
    return float((sent_N > threshold).double().mean())


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [0.8, 2.0])
@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_the_best_test_of_one_value_gains_what_the_law_says_and_no_more(
    law: str, scale: float, epsilon: float
) -> None:
    """P(S) - e^epsilon Q(S) of the best set S is delta: within 5 sigma (false alarm 6e-7)."""
    mechanism, n = Mechanism(bound=Tanh(1.0), law=law, scale=scale), 200_000
    ratio = 2 / scale
    if law == "gaussian":
        delta, threshold = gaussian_delta(epsilon, ratio), epsilon * scale * scale / 2
    else:
        delta = max(0.0, 1 - exp((epsilon - ratio) / 2))
        threshold = min(epsilon, ratio) * scale / 2
    p = _rate_above(mechanism, torch.tensor([[1e6]]), threshold, n, seed=1)
    q = _rate_above(mechanism, torch.tensor([[-1e6]]), threshold, n, seed=2)
    sigma = sqrt((p * (1 - p) + exp(2 * epsilon) * q * (1 - q)) / n)
    if law == "laplace" and epsilon >= ratio:
        assert p - exp(epsilon) * q <= 5 * sigma
    else:
        assert p - exp(epsilon) * q == pytest.approx(delta, abs=5 * sigma)


def test_whole_payloads_of_opposite_inputs_are_told_apart_as_well_as_stated() -> None:
    """The likelihood-ratio test of a whole payload: 5 sigma, false alarm 6e-7."""
    mechanism, n, epsilon = Mechanism(bound=L2Clip(1.0), law="gaussian", scale=1.0), 50_000, 1.0
    z = torch.ones(1, *SHAPE)
    rates = []
    for sign, seed in ((1, 1), (-1, 2)):
        sent = mechanism.release((sign * z).expand(n, *SHAPE), Keyed.from_seed(seed))
        along_N = sent.flatten(1).sum(1) / sqrt(VALUES)  # on the line between the two
        rates.append(float((along_N > epsilon / 2).double().mean()))
    p, q = rates
    sigma = sqrt((p * (1 - p) + exp(2 * epsilon) * q * (1 - q)) / n)
    release = mechanism.release_of(SHAPE)
    delta = gaussian_delta(epsilon, release.tensor_sensitivity / release.scale)
    assert p - exp(epsilon) * q == pytest.approx(delta, abs=5 * sigma)
    assert guarantee(release, unit="tensor", delta=delta).epsilon == pytest.approx(epsilon)


# What is refused


@pytest.mark.parametrize("name", BOUNDS)
def test_features_that_were_not_bounded_get_no_noise(name: str) -> None:
    mechanism = Mechanism(bound=bound_named(name, 0.5), law="gaussian", scale=1.0)
    source = Keyed.from_seed(0)
    before = source.state()
    with pytest.raises(
        ValueError, match=r"expected features within .*limit=0.5.*bounded\(\) first"
    ):
        mechanism.noised(_features(), source)
    assert torch.equal(source.state(), before)


@pytest.mark.parametrize("source", [Keyed.from_seed(0), Pseudo()])
def test_features_that_are_no_numbers_are_not_sent(source: Source) -> None:
    z = _features()
    z[2, 0, 1, 1] = float("nan")
    with pytest.raises(DivergedError, match="hold NaN or infinity"):
        _gaussian(1.0).release(z, source)


@pytest.mark.parametrize(
    ("law", "scale", "says"),
    [
        ("gauss", 1.0, "unknown noise law 'gauss'; choose from: gaussian"),
        ("none", 1.0, "has the scale 0"),
        ("gaussian", -1.0, "scale of 0 or more"),
        ("laplace", float("nan"), "scale of 0 or more"),
        ("laplace", float("inf"), "scale of 0 or more"),
    ],
)
def test_laws_and_scales_that_do_not_go_together_are_refused(
    law: str, scale: float, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        Mechanism(bound=Tanh(1.0), law=law, scale=scale)


def test_other_features_at_the_same_place_of_the_stream_get_other_noise() -> None:
    # A run that goes on from a checkpoint with other data must not use a noise twice.
    gaussian = Mechanism(bound=Tanh(1.0), law="gaussian", scale=1.0)
    source = Keyed.secret()
    before, z, other = source.state(), torch.zeros(50, 40), torch.full((50, 40), 1e-3)
    first = gaussian.noised(z, source)
    source.load_state(before)
    again = gaussian.noised(z, source)
    source.load_state(before)
    changed = gaussian.noised(other, source) - other
    assert torch.equal(first, again)
    # 2,000 pairs of independent values: beyond 5 / sqrt(2,000) once in two million runs.
    assert (
        abs(float(torch.corrcoef(torch.stack([first.flatten(), changed.flatten()]))[0, 1])) < 0.112
    )
