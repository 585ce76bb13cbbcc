"""The rules that decide whether an early answer is final obey their laws.

Dimension key:  B batch   K classes
"""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.core.rules import ConfidenceAbove, EntropyBelow

RULES = [ConfidenceAbove, EntropyBelow]
Rule = type[ConfidenceAbove] | type[EntropyBelow]

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
