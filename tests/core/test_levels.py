"""Levels follow what is usual and ignore what is not; gradients are clipped only as outliers."""

import json
from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eaves.core.levels import GradientClip, Level
from eaves.core.optimise import OneCycle, Optimised
from eaves.errors import DivergedError

CPU = torch.device("cpu")


@given(st.lists(st.floats(0.5, 2.0), min_size=40, max_size=80), st.floats(1e3, 1e30))
def test_one_outlier_moves_a_level_by_five_percent_at_most(
    usual: list[float], outlier: float
) -> None:
    level = Level()
    for figure in usual:
        level.add(figure)
    before = level.value
    level.add(outlier)
    assert before < level.value < 1.06 * before
    assert 0.49 < before < 2.1


def test_a_level_follows_what_changes_slowly() -> None:
    level, figure = Level(), 1.0
    for _ in range(200):
        figure *= 1.04
        level.add(figure)
    assert level.value == pytest.approx(figure, rel=0.05)


@pytest.mark.parametrize("figure", [0.0, -1.0, inf, nan])
def test_what_is_no_positive_number_tells_nothing(figure: float) -> None:
    level = Level()
    level.add(2.0)
    level.add(figure)
    assert level.value == pytest.approx(2.0)
    assert level.count == 1


def test_a_level_goes_on_from_its_facts() -> None:
    one, other = Level(), Level()
    for figure in (3.0, 5.0, 1e-3):
        one.add(figure)
    other = Level.of(json.loads(json.dumps(one.facts())))
    for level in (one, other):
        level.add(7.0)
    assert other.value == one.value
    assert Level.of(Level().facts()).value == 0.0


@pytest.mark.parametrize("facts", [None, [], [1.0], ["1", 2], [1.0, -1], [1.0, 2.5], {"a": 1}])
def test_facts_of_another_kind_are_refused(facts: object) -> None:
    with pytest.raises(ValueError, match="expected a logarithm and a count"):
        Level.of(facts)


def _part(clip: GradientClip | None) -> Optimised:
    torch.manual_seed(0)
    part = Optimised({"net": nn.Linear(3, 2)}, OneCycle(total_steps=40, lr=0.1), CPU)
    part.clip = clip
    return part


def _train(part: Optimised, scale_of: Callable[[int], float], steps: int = 30) -> None:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x_BC = torch.randn(8, 3, generator=generator) * scale_of(step)
        part.descend(part.modules["net"](x_BC).square().mean())


def test_training_without_outliers_is_the_same_bit_for_bit() -> None:
    clipped, free = _part(GradientClip(10.0)), _part(None)
    for part in (clipped, free):
        _train(part, lambda step: 1.0)
    assert clipped.clip is not None
    assert clipped.clip.clipped == 0
    for one, other in zip(clipped.modules.parameters(), free.modules.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_outlier_moves_weights_no_further_than_the_limit() -> None:
    moved = []
    for clip in (GradientClip(10.0), None):
        part = _part(clip)
        _train(part, lambda step: 1.0, steps=25)
        before = torch.cat([p.detach().flatten() for p in part.modules.parameters()])
        part.descend(part.modules["net"](torch.full((8, 3), 1e4)).square().mean())
        after = torch.cat([p.detach().flatten() for p in part.modules.parameters()])
        moved.append(float((after - before).norm()))
    assert moved[0] < 1.0 < 1e3 < moved[1]


def test_the_first_steps_are_not_clipped() -> None:
    part = _part(GradientClip(2.0))
    _train(part, lambda step: 10.0**step, steps=5)
    assert part.clip is not None
    assert part.clip.clipped == 0


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    part = _part(GradientClip(10.0))
    before = [p.detach().clone() for p in part.modules.parameters()]
    weight = next(part.modules.parameters())
    # The square root has an infinite slope at 0, and the loss is finite.
    with pytest.raises(DivergedError, match="the gradient is not finite at step 0; no weight was"):
        part.descend((weight * 0).sqrt().sum())
    assert all(
        torch.equal(p, was) for p, was in zip(part.modules.parameters(), before, strict=True)
    )
    assert part.steps == 0


@pytest.mark.parametrize("times", [1.0, 0.0, nan])
def test_a_limit_that_would_clip_everything_is_refused(times: float) -> None:
    with pytest.raises(ValueError, match="more than 1 times"):
        GradientClip(times)
