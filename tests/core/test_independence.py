"""Answers that depend on their batch, or change each time: found in nets of every kind.

Dimension key:  B batch   C channels
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from eaves.core.independence import MOST, dependence, inputs_seen


class _Of(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]):
        super().__init__()
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _images(n: int = 8) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Flatten(), nn.LazyLinear(5))


DEPENDENT = {
    "batch norm": nn.BatchNorm2d(8, track_running_stats=False),
    "centred by the batch": _Of(lambda x: x - x.mean(dim=0)),
    "scaled by the batch": _Of(lambda x: x / x.abs().amax()),
    "quantised by the batch": _Of(lambda x: (x * 7 / x.abs().amax()).round()),
    "mixed along the batch": _Of(lambda x: x + x.roll(1, 0)),
    "sorted by the batch": _Of(lambda x: x - x.median()),
}
INDEPENDENT = {
    "running statistics": nn.BatchNorm2d(8),
    "layer norm": nn.LayerNorm([8, 4, 4]),
    "group norm": nn.GroupNorm(2, 8),
    "instance norm": nn.InstanceNorm2d(8),
    "dropout": nn.Dropout(0.5),
    "pooling": nn.AdaptiveAvgPool2d(1),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_an_answer_by_its_batch_is_found(name: str) -> None:
    found = dependence(_net(DEPENDENT[name]), _images())
    assert found is not None
    assert found.on_batch
    assert ("track_running_stats=False: 1" in found.why) == (name == "batch norm")


@pytest.mark.parametrize("name", INDEPENDENT)
def test_an_answer_of_ones_own_is_left_in_peace(name: str) -> None:
    net = _net(INDEPENDENT[name])
    assert dependence(net.train(), _images()) is None
    assert all(module.training for module in net.modules())


def test_batch_norm_on_single_values_cannot_answer_one_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    found = dependence(net, torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    assert found is not None
    assert found.on_batch
    assert "cannot answer one example alone" in found.why


def test_dropout_that_is_never_off_is_random_and_not_by_the_batch() -> None:
    found = dependence(_net(_Of(lambda x: dropout(x, 0.5, training=True))), _images())
    assert found is not None
    assert not found.on_batch
    assert "dropout" in found.why


def test_one_example_and_another_output_tell_nothing() -> None:
    assert dependence(_net(DEPENDENT["batch norm"]), _images(1)) is None
    assert dependence(_Of(lambda x: x.sum()), _images()) is None


def test_frozen_parts_keep_their_mode() -> None:
    net = _net(nn.BatchNorm2d(8).eval(), nn.Dropout())
    dependence(net, _images())
    assert [module.training for module in net.children()] == [True, False, True, True, True]


def test_what_parts_are_called_with_is_seen_once_and_copied() -> None:
    part, x = nn.Identity(), torch.zeros(MOST + 5, 2)
    with inputs_seen({"a": part, "never": nn.Identity()}) as seen:
        part(x)
        x += 1
        part(x)
    part(x + 1)
    assert set(seen.of) == {"a"}
    assert seen.of["a"].shape == (MOST, 2)
    assert not seen.of["a"].any()
