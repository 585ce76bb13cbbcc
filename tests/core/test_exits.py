"""Exit heads give logits for features of any shape; the rules obey their laws.

Dimension key:  B batch   K classes
"""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eaves.core.exits import EXITS, ConfidenceAbove, EntropyBelow, exit_head
from eaves.errors import ConfigError

SHAPES = [(6,), (6, 9), (6, 5, 4), (1, 1, 1), (3, 2, 4, 5)]
RULES = [ConfidenceAbove, EntropyBelow]
Rule = type[ConfidenceAbove] | type[EntropyBelow]


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_exit_gives_logits_that_depend_on_the_features(
    kind: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    head = exit_head(kind, shape, 7)
    z = torch.randn(4, *shape, requires_grad=True)
    logits_BK = head(z)
    assert logits_BK.shape == (4, 7)
    logits_BK.square().sum().backward()
    assert z.grad is not None
    assert all(part.any() for part in z.grad)
    assert all(p.grad is not None for p in head.parameters())


def test_the_convolutional_exit_convolves_images_only() -> None:
    def convolutions(shape: tuple[int, ...]) -> int:
        return sum(isinstance(m, nn.Conv2d) for m in exit_head("conv", shape, 2).modules())

    assert [convolutions(shape) for shape in SHAPES] == [0, 0, 1, 1, 0]


def test_an_unknown_exit_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown exit 'convs'; choose from: conv, "):
        exit_head("convs", (3,), 2)


LOGITS = st.integers(2, 6).flatmap(
    lambda k: st.lists(
        st.lists(st.floats(-50, 50, width=32), min_size=k, max_size=k), min_size=1, max_size=5
    ).map(torch.tensor)
)
THRESHOLDS = st.floats(0, 1)


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=25)  # a busy machine is no failure
@given(logits_BK=LOGITS, thresholds=st.tuples(THRESHOLDS, THRESHOLDS))
def test_a_stricter_threshold_accepts_no_more(
    rule: Rule, logits_BK: Tensor, thresholds: tuple[float, float]
) -> None:
    low, high = sorted(thresholds)
    strict, lax = (low, high) if rule is EntropyBelow else (high, low)
    few_B, many_B = (rule(threshold=t).accepts(logits_BK) for t in (strict, lax))
    assert few_B.shape == logits_BK.shape[:1]
    assert few_B.dtype == torch.bool
    assert bool((many_B | ~few_B).all())


@settings(deadline=None, max_examples=25)  # a busy machine is no failure
@given(logits_BK=LOGITS, shift=st.floats(-20, 20, width=32))
def test_the_ends_of_the_scale_accept_everything_or_nothing(
    logits_BK: Tensor, shift: float
) -> None:
    assert not EntropyBelow(threshold=0).accepts(torch.cat([logits_BK, 1e4 * logits_BK])).any()
    assert ConfidenceAbove(threshold=0).accepts(logits_BK).all()
    # A sure answer is accepted, and one that knows nothing is not, at any threshold between.
    k = logits_BK.shape[1]
    sure_BK = torch.nn.functional.one_hot(torch.arange(k)) * 1000.0 + shift
    blank_BK = torch.full((3, k), shift)
    for threshold in (0.001, 0.999):
        assert EntropyBelow(threshold=threshold).accepts(sure_BK).all()
        assert not EntropyBelow(threshold=threshold).accepts(blank_BK).any()
    assert ConfidenceAbove(threshold=0.999).accepts(sure_BK).all()
    assert not ConfidenceAbove(threshold=1 / k + 1e-3).accepts(blank_BK).any()


def test_the_entropy_is_a_share_of_its_largest_value() -> None:
    p, k = 0.7, 4
    probabilities = torch.tensor([[p, 0.1, 0.1, 0.1]], dtype=torch.float64)
    share = -(p * log(p) + 0.3 * log(0.1)) / log(k)
    accepts = [
        EntropyBelow(threshold=share + margin).accepts(probabilities.log()).item()
        for margin in (-1e-9, 1e-9)
    ]
    assert accepts == [False, True]


def test_the_confidence_is_that_of_the_likeliest_class() -> None:
    logits_BK = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    accepts = [ConfidenceAbove(threshold=t).accepts(logits_BK).item() for t in (0.499, 0.501)]
    assert accepts == [True, False]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_its_scale_is_refused(rule: Rule, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"expected threshold in \[0, 1\], got"):
        rule(threshold=threshold)
