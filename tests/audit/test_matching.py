"""Correlations against numpy, and the best pairs against all that there are."""

import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.audit.matching import best_pairs, correlations
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total(gains_EV: Tensor, pairs_V: Tensor) -> float:
    return float(gains_EV[pairs_V, torch.arange(len(pairs_V))].sum())


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    sources=st.integers(1, 4),
    spare=st.integers(0, 2),
    levels=st.sampled_from([2, 5, 10**6]),
)
def test_no_pairing_is_better(seed: int, sources: int, spare: int, levels: int) -> None:
    shape = (3, sources + spare, sources)
    gains_GEV = torch.randint(-levels, levels, shape, generator=seeded(seed)).double()
    pairs_GV = best_pairs(gains_GEV)
    for gains_EV, pairs_V in zip(gains_GEV, pairs_GV, strict=True):
        others = permutations(range(sources + spare), sources)
        assert total(gains_EV, pairs_V) == max(total(gains_EV, torch.tensor(o)) for o in others)
        assert len(set(pairs_V.tolist())) == sources


def test_one_to_one_costs_something() -> None:
    """The same estimate is best for both sources, and only one can have it."""
    gains_GEV = torch.tensor([[[0.9, 0.8], [0.5, 0.1]]])
    assert gains_GEV.argmax(dim=1).tolist() == [[0, 0]]
    assert best_pairs(gains_GEV).tolist() == [[1, 0]]


def test_a_large_pool_is_paired_in_time() -> None:
    truth_V = torch.randperm(128, generator=seeded())
    gains_EV = torch.rand(128, 128, generator=seeded(1)) * 0.5
    gains_EV[truth_V, torch.arange(128)] = 1.0
    assert torch.equal(best_pairs(gains_EV[None])[0], truth_V)


@pytest.mark.parametrize("gains_GEV", [torch.zeros(1, 2, 3), torch.full((1, 2, 2), float("nan"))])
def test_gains_that_allow_no_pairs(gains_GEV: Tensor) -> None:
    with pytest.raises(ValueError, match="expected finite gains"):
        best_pairs(gains_GEV)


def test_no_groups_have_no_pairs() -> None:
    assert best_pairs(torch.zeros(0, 3, 2)).shape == (0, 2)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ConfigError, match=r'needs scipy: pip install "eaves\[lab\]"'):
        best_pairs(torch.eye(2)[None])


def test_the_correlations_of_numpy() -> None:
    a = torch.rand(2, 3, 1, 4, 5, generator=seeded()) * 9
    b = torch.rand(2, 2, 1, 4, 5, generator=seeded(1)) + a[:, :2] / 9
    found_GEV = correlations(a, b)
    for g in range(2):
        table = np.corrcoef(a[g].flatten(1).numpy(), b[g].flatten(1).numpy())
        assert torch.allclose(found_GEV[g], torch.from_numpy(table[:3, 3:]), atol=1e-6)


@settings(deadline=None)
@given(scale=st.floats(0.01, 100), sign=st.sampled_from([-1, 1]), offset=st.floats(-100, 100))
def test_scale_and_offset_do_not_count(scale: float, sign: int, offset: float) -> None:
    x = torch.rand(1, 2, 3, 4, 4, generator=seeded(), dtype=torch.float64)
    found = correlations(sign * scale * x + offset, x)
    assert torch.allclose(found, sign * correlations(x, x), atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, 117.3, 1e-30, 1e30])
def test_what_is_constant_correlates_with_nothing(level: float) -> None:
    x = torch.rand(1, 1, 3, 8, 8, generator=seeded())
    assert correlations(torch.full((1, 1, 3, 8, 8), level), x).item() == 0.0


def test_the_rounding_of_a_constant_correlates_with_nothing() -> None:
    """Else an attack that answers nothing would be given what its rounding happens to be like."""
    x = torch.rand(1, 1, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    assert correlations(0.3 + 1e-8 * x, x).item() == 0.0
    assert correlations(0.3 + 1e-4 * x, x).item() == pytest.approx(1)


def test_gradients_are_finite_even_for_constant_estimates() -> None:
    made = torch.zeros(1, 2, 1, 4, 4, requires_grad=True)
    truth = torch.rand(1, 2, 1, 4, 4, generator=seeded())
    torch.autograd.backward(correlations(made, truth).square().sum())
    assert made.grad is not None
    assert bool(made.grad.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 2, 3, 4, 5), (2, 2, 3, 4), (2, 2, 3, 4, 4)])
def test_examples_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected estimates \(G, E, C, H, W\)"):
        correlations(torch.zeros(2, 2, 3, 4, 5), torch.zeros(shape))
