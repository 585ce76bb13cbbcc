"""Activations that a group of mixtures shares: linear within a group, themselves with one.

Dimension key:  B batch   C channels   H, W height and width
"""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from eaves.methods.gates import GATES, SharedMaximum, share_gates
from eaves.privacy.mixing import Mixing, MixingLaw
from eaves.privacy.sources import Keyed

ACTIVATIONS = {
    nn.ReLU: nn.ReLU(),
    nn.SiLU: nn.SiLU(),
    nn.Hardswish: nn.Hardswish(),
    nn.GELU: nn.GELU(),
}


def maps(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def convolutions(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a net with all that can be shared, and statistics of its own, for evaluation."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        deepcopy(ACTIVATIONS[act]),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(8, 8, 3), deepcopy(ACTIVATIONS[act])),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    net(10 + 3 * maps(64, seed=1))
    return net.eval()


def drawn(group: int, groups: int, seed: int, law: str = "orthogonal") -> Mixing:
    return MixingLaw(name=law, group=group).draw(groups, Keyed.from_seed(seed))


def answers(net: nn.Module, h: Tensor, mixing: Mixing) -> Tensor:
    return mixing.unmix(net(mixing.mix(h)))


def test_every_activation_has_its_own_gate() -> None:
    assert set(GATES) == set(ACTIVATIONS)


@pytest.mark.parametrize("act", GATES)
def test_one_in_a_group_is_the_net_itself(act: type[nn.Module]) -> None:
    net = convolutions(act)
    shared = deepcopy(net)
    share_gates(shared, 1)
    assert shared.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(shared(maps(6)), net(maps(6)))


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("act", GATES)
def test_answers_do_not_depend_on_the_coefficients(act: type[nn.Module], group: int) -> None:
    own, h = convolutions(act), maps(12)
    shared = deepcopy(own)
    share_gates(shared, group)
    first, second = (drawn(group, 12 // group, seed) for seed in (1, 2))
    torch.testing.assert_close(
        answers(shared, h, first), answers(shared, h, second), rtol=1e-3, atol=1e-3
    )
    differ = answers(own, h, first) - answers(own, h, second)
    assert differ.abs().max() > 0.05  # own gates make them depend


@pytest.mark.parametrize("law", ["orthogonal", "affine", "convex"])
def test_between_the_inputs_of_a_group_the_net_is_linear(law: str) -> None:
    """For gates that are given, a mixture's answer is the mixture of answers."""
    net, h = convolutions(), maps(8)
    share_gates(net, 4)
    mixing = drawn(4, 2, 0, law)
    queries = mixing.mix(h)
    halves = torch.stack([queries, queries.roll(1, dims=0)]).mean(dim=0)
    # Two groups of the same mean: the mixtures themselves, and each with its neighbour's half.
    first, second = (x.unflatten(0, (2, 4)) for x in (queries, halves))
    second = second - second.mean(dim=1, keepdim=True) + first.mean(dim=1, keepdim=True)
    between = (first + second).flatten(0, 1) / 2
    expected = (net(queries) + net(second.flatten(0, 1))) / 2
    torch.testing.assert_close(net(between), expected, rtol=1e-4, atol=1e-4)


def test_a_group_knows_nothing_of_another() -> None:
    net, h = convolutions(), maps(6)
    share_gates(net, 3)
    changed = torch.cat([h[:3], 5 * maps(3, seed=9)])
    torch.testing.assert_close(net(changed)[:3], net(h)[:3])
    changed = torch.cat([h[:2], 5 * maps(4, seed=9)])
    assert not torch.allclose(net(changed)[:2], net(h)[:2], atol=1e-2)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.MaxPool2d((1, 2), dilation=2),
    ],
)
def test_the_maximum_of_one_is_that_of_the_pool(pool: nn.MaxPool2d) -> None:
    torch.testing.assert_close(SharedMaximum(pool, 1)(maps(5)), pool(maps(5)))


def test_gradients_reach_all_mixtures_of_a_group() -> None:
    net, h = convolutions(nn.SiLU), maps(4).requires_grad_()
    share_gates(net, 2)
    net(h)[0].sum().backward()
    assert h.grad is not None
    reached = h.grad.flatten(1).abs().amax(dim=1) > 0
    assert reached.tolist() == [True, True, False, False]


def test_what_cannot_be_shared_stays() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.ReLU())
    share_gates(net, 2)
    assert [type(module).__name__ for module in net] == ["Linear", "Tanh", "SharedGate"]
