"""Noise without torch has the law, the scale and the secrecy of that with it."""

import pickle
from math import erf, exp, sqrt
from statistics import NormalDist

import numpy as np
import pytest
import torch

from eaves.errors import ConfigError, DivergedError
from eaves.light.noise import NORMS, Features, Noising, Secret, normal_quantile
from eaves.privacy.bounds import BOUNDS, bound_named
from eaves.privacy.mechanisms import Mechanism
from eaves.privacy.sources import Keyed

KEY = bytes(range(32))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Secret:
    """Return a source with a key that the test knows."""
    monkeypatch.setattr("os.urandom", lambda size: KEY[:size])
    return Secret()


def noising(**changes: object) -> Noising:
    values = {"bound": "clip", "limit": 1.0, "law": "gaussian", "scale": 0.5} | changes
    return Noising(**values)  # type: ignore[arg-type]


def test_the_quantile_is_that_of_the_standard_library() -> None:
    """Source: Wichura's algorithm is also in CPython, written by others."""
    u_N = np.concatenate([np.linspace(1e-4, 0.5, 5000), 2.0 ** -np.arange(1, 56)])
    expected = [NormalDist().inv_cdf(float(u)) for u in u_N]
    assert normal_quantile(u_N) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_values_are_those_of_the_keyed_stream_with_torch(known: Secret, law: str) -> None:
    keyed = Keyed(KEY)
    for salt in (b"", b"some features"):
        ours = getattr(known, law)((7, 300), salt=salt)
        theirs = getattr(keyed, law)((7, 300), salt=salt)
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_what_is_sent_is_what_the_mechanism_sends(known: Secret, law: str, bound: str) -> None:
    mechanism = Mechanism(bound=bound_named(bound, 0.7), law=law, scale=0.3)
    z = mechanism.bounded(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)))
    ours = noising(bound=bound, limit=0.7, law=law, scale=0.3).noised(z.numpy(), known)
    assert np.array_equal(ours, mechanism.noised(z, Keyed(KEY)).numpy())


def test_the_bounds_are_those_there_are() -> None:
    assert NORMS.keys() == BOUNDS.keys()


def _normal(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def _laplace(x: float) -> float:
    return exp(x) / 2 if x < 0 else 1 - exp(-x) / 2


@pytest.mark.parametrize(("law", "cdf"), [("gaussian", _normal), ("laplace", _laplace)])
def test_noise_has_its_law(law: str, cdf: object) -> None:
    """Kolmogorov-Smirnov; false alarms: 2 exp(-2 n d^2) < 1e-9 by Dvoretzky-Kiefer-Wolfowitz."""
    n = 40_000
    zero = np.zeros((1, n), np.float32)
    found = np.sort(noising(law=law, scale=2.0).noised(zero, Secret())[0] / 2)
    exact = np.array([cdf(float(x)) for x in found])  # type: ignore[operator]
    distance = np.abs(exact - (np.arange(n) + 0.5) / n).max() + 0.5 / n
    assert distance < sqrt(np.log(2e9) / (2 * n))


def test_noise_is_fresh_for_every_call_and_every_source() -> None:
    z: Features = np.zeros((2, 50), np.float32)
    source, other = Secret(), Secret()
    drawn = [noising().noised(z, source) for source in (source, source, other)]
    for i, one in enumerate(drawn):
        for another in drawn[:i]:
            assert (one != another).mean() > 0.9
    assert not np.array_equal(drawn[0][0], drawn[0][1])


def test_a_source_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="same noise"):
        pickle.dumps(Secret())


@pytest.mark.parametrize("bound", NORMS)
@pytest.mark.parametrize("value", [1.001, -5.0, float("nan"), float("inf")])
def test_features_beyond_the_bound_are_not_sent(bound: str, value: float) -> None:
    z = np.zeros((3, 2, 2), np.float32)
    z[1, 0, 1] = value
    with pytest.raises(DivergedError, match="nothing was sent"):
        noising(bound=bound).noised(z, Secret())
    z[1, 0, 1] = 1.0
    noising(bound=bound).noised(z, Secret())


def test_without_a_scale_features_stay_as_they_are() -> None:
    z = np.ones((2, 3), np.float32)
    assert noising(law="none", scale=0.0).noised(z, Secret()) is z


@pytest.mark.parametrize(
    "changes",
    [{"bound": "box"}, {"law": "uniform"}, {"scale": -1.0}, {"limit": 0.0}, {"law": "none"}],
)
def test_noise_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        noising(**changes)
