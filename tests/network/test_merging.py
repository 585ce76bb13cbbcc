"""Rules of robust merging: laws, and what a minority of hostile gradients can do to each.

Dimension key:  E edges   P parameters
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.experiments.netconfig import MERGE_RULES as SETTING
from eaves.network.merging import MERGE_RULES, merged, merged_buffers, rule_for

ROBUST = ("clipped", "trimmed", "median", "krum")


def _gradients(edges: int, seed: int = 0) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [1 + 0.1 * torch.randn(shape, generator=generator) for shape in ((3, 2), (4,))]
        for _ in range(edges)
    ]


def test_the_settings_name_the_rules() -> None:
    assert SETTING == MERGE_RULES


@pytest.mark.parametrize("rule", MERGE_RULES)
@given(edges=st.integers(1, 12), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_equal_gradients_are_merged_to_themselves(rule: str, edges: int, seed: int) -> None:
    one = _gradients(1, seed)[0]
    found = merged(rule, [one] * edges, [3] * edges)
    for tensor, expected in zip(found, one, strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("rule", MERGE_RULES)
@given(order=st.permutations(range(7)))
@settings(deadline=None, max_examples=10)
def test_the_order_of_edges_means_nothing(rule: str, order: list[int]) -> None:
    gradients = _gradients(7)
    one = merged(rule, gradients, [1] * 7)
    other = merged(rule, [gradients[i] for i in order], [1] * 7)
    for tensor, expected in zip(other, one, strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("size", [1e2, 1e9, 1e30])
@pytest.mark.parametrize("rule", [*ROBUST, "auto"])
def test_a_minority_of_two_in_ten_moves_a_robust_merge_by_little(rule: str, size: float) -> None:
    gradients = _gradients(10)
    honest = merged("mean", gradients[2:], [1] * 8)
    for i, sign in ((0, 1), (1, -1)):
        gradients[i] = [torch.full_like(x, sign * size) for x in gradients[i]]
    for tensor, expected in zip(merged(rule, gradients, [1] * 10), honest, strict=True):
        assert float((tensor - expected).abs().max()) < (0.5 if rule == "clipped" else 0.15)
    mean = merged("mean", [gradients[0], *gradients[2:]], [1] * 9)
    assert float(mean[0].abs().max()) > size / 20  # what the others are there for


def test_examples_weigh_in_the_mean_and_in_no_robust_rule() -> None:
    gradients = [[torch.full((2,), float(i))] for i in range(5)]
    weighted = merged("mean", gradients, [1, 1, 1, 1, 96])
    assert float(weighted[0][0]) == pytest.approx(3.9)
    for rule in ROBUST:
        one, other = merged(rule, gradients, [1] * 5), merged(rule, gradients, [1, 1, 1, 1, 10**9])
        assert torch.equal(one[0], other[0])


def test_coordinate_wise_rules_are_those_of_numpy() -> None:
    values_EP = np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32)
    gradients = [[torch.from_numpy(row)] for row in values_EP]
    ordered = np.sort(values_EP, axis=0)
    expected = {"median": np.median(values_EP, axis=0), "trimmed": ordered[2:8].mean(axis=0)}
    for rule, wanted in expected.items():
        np.testing.assert_allclose(merged(rule, gradients, [1] * 10)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("rule", MERGE_RULES)
@pytest.mark.parametrize("edges", [1, 2])
def test_two_gradients_do_not_say_which_is_odd(rule: str, edges: int) -> None:
    assert rule_for(rule, edges) == "mean"


def test_buffers_are_merged_by_their_median_and_counts_go_on_by_one() -> None:
    mean, count = torch.zeros(2), torch.tensor(5)
    buffers = [[torch.tensor([v, -v]), torch.tensor(6)] for v in (1.0, 2.0, 1e18)]
    found = merged_buffers(buffers, [mean, count])
    assert found[0].tolist() == [2.0, -2.0]
    assert int(found[1]) == 6
