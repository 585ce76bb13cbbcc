"""No input gets past a bound, and some get as far as it says.

Dimension key:  B batch   C channels   D values of one example
"""

from math import inf, nan, prod, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from eaves.errors import ConfigError
from eaves.privacy.bounds import BOUNDS, Bound, Clip, L1Clip, L2Clip, Tanh, bound_named

LIMITS = (1.0, 0.1, 3.7, 1e-3, 1e4)  # 0.1 and 3.7 as float32 are more than they are
SHAPE = (3, 4, 4)
VALUES = prod(SHAPE)
ELEMENTWISE, NORMS = ("tanh", "clip"), ("l1", "l2")

every_bound = pytest.mark.parametrize("name", BOUNDS)
every_limit = pytest.mark.parametrize("limit", LIMITS)


def _wild(seed: int, limit: float, batch: int = 64) -> Tensor:
    """Return features of very different sizes and directions, some of them corners."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, *SHAPE, generator=generator)
    sizes_B = 10 ** (8 * torch.rand(batch, 1, 1, 1, generator=generator) - 4)
    z = torch.where(torch.rand(z.shape, generator=generator) < 0.5, z, z.sign())
    return z * sizes_B * limit


def _extreme_pairs(values: int) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of opposite corners, of a cube and of a cross-polytope."""
    ones, one = torch.ones(1, values), torch.eye(values)[:1]
    return [(1e6 * corner, -1e6 * corner) for corner in (ones, one)]


def _apart(u: Tensor, v: Tensor) -> tuple[float, float, float]:
    """Return the largest distance of two examples in one value, in L1 and in L2 norm."""
    gap_BD = (u.double() - v.double()).flatten(1)
    l1, l2 = (torch.linalg.vector_norm(gap_BD, ord=p, dim=1).max().item() for p in (1, 2))
    return gap_BD.abs().max().item(), l1, l2


@every_bound
@every_limit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_no_two_inputs_are_farther_apart_than_stated(
    name: str, limit: float, dtype: torch.dtype
) -> None:
    bound = bound_named(name, limit)
    size = 1.0 if dtype == torch.float16 else limit  # what half precision can hold
    u, v = (bound.apply(_wild(seed, size).to(dtype).nan_to_num()) for seed in (0, 1))
    assert bound.holds(u)
    assert u.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    reach = bound.reach(VALUES)
    for pair in ((u, v), (u, -u), (u, u.roll(1, 0))):
        element, l1, l2 = _apart(*pair)
        # Strictly: float32 features, distances in float64, which round by 1e-15.
        assert element <= reach.element
        assert l1 <= reach.l1 * (1 + 1e-14)
        assert l2 <= reach.l2 * (1 + 1e-14)


@every_bound
@every_limit
@pytest.mark.parametrize("values", [1, 2, 48])
def test_some_two_inputs_are_as_far_apart_as_stated(name: str, limit: float, values: int) -> None:
    bound = bound_named(name, limit)
    found = [
        _apart(bound.apply(u * limit), bound.apply(v * limit)) for u, v in _extreme_pairs(values)
    ]
    farthest = [max(gaps) for gaps in zip(*found, strict=True)]
    reach = bound.reach(values)
    assert farthest == pytest.approx([reach.element, reach.l1, reach.l2], rel=1e-6)


@settings(deadline=None)
@given(limit=st.floats(1e-6, 1e6), values=st.integers(1, 10**6))
@pytest.mark.parametrize("name", BOUNDS)
def test_the_table_of_the_module(name: str, limit: float, values: int) -> None:
    reach = bound_named(name, limit).reach(values)
    across = 2 * limit
    l1 = {"l1": across, "l2": across * sqrt(values)}.get(name, across * values)
    l2 = across if name in NORMS else across * sqrt(values)
    assert (reach.element, reach.l1, reach.l2) == (across, l1, l2)


@settings(deadline=None)
@given(limit=st.floats(1e-4, 1e4), seed=st.integers(0, 2**20))
@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_bounded_twice_is_as_bounded_once(name: str, limit: float, seed: int) -> None:
    bound = bound_named(name, limit)
    once = bound.apply(_wild(seed, limit, batch=4))
    assert bound.holds(once)
    if name != "tanh":
        assert torch.allclose(bound.apply(once), once, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bound", [Clip(2.0), L1Clip(100.0), L2Clip(10.0)])
def test_a_clip_leaves_what_is_inside_as_it_is(bound: Bound) -> None:
    z = 0.5 * torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bound.apply(z), z)


def test_a_tanh_of_limit_1_is_the_tanh() -> None:
    z = torch.linspace(-20, 20, 1001).reshape(1, -1)
    assert torch.equal(Tanh(1.0).apply(z), torch.tanh(z))
    assert torch.allclose(Tanh(5.0).apply(z), 5 * torch.tanh(z / 5))


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_a_norm_clip_shrinks_each_example_alone_and_keeps_its_direction(
    name: str, order: int
) -> None:
    z = torch.stack([torch.full(SHAPE, 10.0), torch.full(SHAPE, 1e-4), torch.full(SHAPE, -3.0)])
    clipped = bound_named(name, 2.0).apply(z)
    norms_B = torch.linalg.vector_norm(clipped.flatten(1), ord=order, dim=1)
    assert norms_B[[0, 2]].tolist() == pytest.approx([2.0, 2.0], rel=1e-5)
    assert torch.equal(clipped[1], z[1])
    assert torch.allclose(clipped[0] / clipped[0].max(), torch.ones(SHAPE))
    assert torch.equal(clipped[0], bound_named(name, 2.0).apply(z[:1])[0])


@every_bound
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize("size", [0.01, 30.0])  # inside and outside, away from the edge
def test_gradients(name: str, shape: tuple[int, ...], size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = size * (0.5 + torch.rand(shape, generator=generator, dtype=torch.float64))
    z = (z * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)).requires_grad_()
    limit = 2.0 if shape[1:] in ((), (1,), (7,)) else 5.0
    assert gradcheck(bound_named(name, limit).apply, (z,))


@every_bound
def test_gradients_at_zero_are_those_of_the_identity(name: str) -> None:
    z = torch.zeros(2, *SHAPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(bound_named(name, 1.0).apply(z).sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


@every_bound
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_no_number_is_not_hidden(name: str, bad: float) -> None:
    bound = bound_named(name, 1.0)
    z = torch.zeros(2, *SHAPE)
    z[1, 0, 0, 0] = bad
    bounded = bound.apply(z)
    if name in ELEMENTWISE and bad != nan and abs(bad) == inf:
        assert bounded[1, 0, 0, 0] == (1.0 if bad > 0 else -1.0)
        assert bound.holds(bounded)
    else:
        assert torch.isnan(bounded[1, 0, 0, 0])
        assert not bound.holds(bounded)
    assert torch.equal(bounded[0], z[0])


@every_bound
def test_holds_tells_what_is_outside(name: str) -> None:
    bound = bound_named(name, 0.1)
    edge = torch.zeros(2, *SHAPE)
    edge[1, 0, 0, 0] = 0.1 * (1 - 1e-6)
    assert bound.holds(edge)
    assert bound.holds(edge[:0])
    assert not bound.holds(edge * (1 + 1e-5))
    assert bound.holds(torch.full((2, *SHAPE), 0.09)) == (name in ELEMENTWISE)
    assert bound.holds(torch.tensor([[0.07, -0.07]])) == (name != "l1")


@every_bound
@pytest.mark.parametrize("limit", [0.0, -1.0, inf, nan, 1e31, 1e-31])
def test_limits_that_cannot_be_are_refused(name: str, limit: float) -> None:
    with pytest.raises(ConfigError, match="bound's limit from 1e-30 to 1e"):
        bound_named(name, limit)


def test_an_unknown_bound_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown bound 'l3'; choose from: l"):
        bound_named("l3", 1.0)


def test_bounds_of_the_same_kind_and_limit_are_equal() -> None:
    assert bound_named("clip", 2.0) == Clip(2.0) != Clip(1.0)
    assert [type(bound_named(name)) for name in BOUNDS] == [Tanh, Clip, L1Clip, L2Clip]
