import threading
from typing import Any

import pytest
import torch
from torch import nn

from eaves.core.copies import copy_of, untouched
from eaves.core.sharing import memory_groups, weights_of
from eaves.errors import CutError


def _net() -> Any:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


def test_a_copy_has_the_same_values_no_memory_in_common_and_no_gradients() -> None:
    net = _net()
    net(torch.randn(3, 2)).sum().backward()
    twin = copy_of(net)
    groups = memory_groups([*weights_of(net), *weights_of(twin)])
    assert len(set(groups.values())) == 2 * len(weights_of(net))
    assert all(map(torch.equal, weights_of(net), weights_of(twin)))
    assert all(p.grad is None for p in twin.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_weights_that_share_memory_do_so_in_the_copy() -> None:
    net = _net()
    net[2].weight.data = net[0].weight.data.t()
    twin: Any = copy_of(net)
    with torch.no_grad():
        twin[0].weight[0, 1] = 7.0
    assert twin[2].weight[1, 0] == 7.0
    assert net[0].weight[0, 1] != 7.0


def test_values_computed_from_weights_and_generators_are_copied() -> None:
    net = _net()
    net.held = {"list": [net[0].weight * 2]}
    net.generator = torch.Generator().manual_seed(3)
    twin: Any = copy_of(net)
    assert torch.equal(twin.held["list"][0], net.held["list"][0])
    drawn = torch.rand(3, generator=twin.generator)
    assert torch.equal(torch.rand(3, generator=net.generator), drawn)


def test_what_cannot_be_copied_is_named() -> None:
    net = _net()
    net.lock = threading.Lock()
    with pytest.raises(CutError, match=r"Sequential cannot be copied .*lock.*keep what cannot be"):
        copy_of(net)


@pytest.mark.parametrize("fails", [False, True])
def test_a_net_is_put_back_also_after_a_failure(fails: bool) -> None:
    net = _net()
    net.calls, net.kept = 1, [1]
    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}

    def spoil() -> None:
        with untouched(net):
            net.calls, net.late = 2, 3
            net.kept.append(5)
            net[1].eval()
            net[1].running_mean = net[1].running_mean + 1
            net[1].running_var.mul_(2)
            net(torch.randn(3, 2)).sum().backward()
            if fails:
                raise RuntimeError("in the middle")

    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            spoil()
    else:
        spoil()
    assert (net.calls, net.kept, net[1].training) == (1, [1], True)
    assert not hasattr(net, "late")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert all(p.grad is None for p in net.parameters())
