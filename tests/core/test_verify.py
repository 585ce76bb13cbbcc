"""What the comparison of parts with their net finds, and what it leaves behind."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eaves.core.example import Example
from eaves.core.verify import difference

D = 4


class Part(nn.Module):
    """A linear layer and a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], lin: nn.Module):
        super().__init__()
        self.lin, self.given = lin, forward

    def forward(self, x: Tensor) -> Any:
        return self.given(self, self.lin(x))


def _net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Linear(D, 2))


def _found(second: Callable[[Any, Tensor], Any], net: Any = None) -> str:
    net = _net() if net is None else net
    parts = [nn.Sequential(net[0], net[1]), Part(second, net[2])]
    found = difference(net, parts, Example((D,)))
    return "" if found is None else found.what


def _training_only(m: Any, x: Tensor) -> Tensor:
    return x * 2 if m.training else x


def _evaluation_only(m: Any, x: Tensor) -> Tensor:
    return x if m.training else x * 2


def _second_time(m: Any, x: Tensor) -> Tensor:
    m.calls = getattr(m, "calls", 0) + 1
    return x if m.calls == 1 else x * 2


def _without_gradients(m: Any, x: Tensor) -> Tensor:
    return x if torch.is_grad_enabled() else x * 2


class _Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


DIFFERENT: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "answers": (lambda m, x: x * 1.0001, r"answer otherwise \(by .* at most\)"),
    "in training": (_training_only, "answer otherwise .*training"),
    "in evaluation": (_evaluation_only, "answer otherwise .*evaluation"),
    "the second time": (_second_time, "answer otherwise"),
    "without gradients": (_without_gradients, "answer otherwise .*evaluation"),
    "gradients": (lambda m, x: _Flip.apply(x), "another gradient"),  # type: ignore[no-untyped-call]
    "no gradient": (lambda m, x: x.detach(), "keep no gradient"),
    "type": (lambda m, x: x.double(), "torch.float64 in place of"),
    "shape": (lambda m, x: x[:, :1], "in place of"),
    "draws": (lambda m, x: x + 0 * torch.rand(1), "torch's random generator"),
    "a failure": (lambda m, x: x @ x, "fail with RuntimeError"),
    "no tensor": (lambda m, x: {"x": x}, "answer with a dict"),
}


def test_parts_that_are_the_net_do_not_differ() -> None:
    assert _found(lambda m, x: x) == ""


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_found_and_named(name: str) -> None:
    second, words = DIFFERENT[name]
    assert re.search(words, _found(second))


def test_zeros_hide_nothing() -> None:
    net = _net()
    nn.init.zeros_(net[2].weight)
    parts = [Part(lambda m, x: _Flip.apply(x), net[0]), nn.Sequential(net[1], net[2])]  # type: ignore[no-untyped-call]
    found = difference(net, parts, Example((D,)))
    assert found is not None
    assert "another gradient" in found.what


@pytest.mark.parametrize("shared", ["parameter", "storage"])
def test_weights_in_both_parts_are_found(shared: str) -> None:
    net = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D))
    if shared == "parameter":
        net[2].weight = net[0].weight
    else:
        net[2].weight.data = net[0].weight.data
    found = difference(net, [net[:2], net[2:]], Example((D,)))
    assert found is not None


def test_features_that_are_overwritten_are_told_apart_from_other_differences() -> None:
    net = nn.Sequential(nn.Linear(D, D), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(D, 2))
    found = difference(net, [net[:1], net[1:]], Example((D,)))
    assert found is not None
    assert (found.part, found.overwrites) == (1, True)
    assert difference(net, [net[:3], net[3:]], Example((D,))) is None


class _Reuses(nn.Module):
    """Puts its features into the same memory each time."""

    def __init__(self) -> None:
        super().__init__()
        self.space: Tensor
        self.register_buffer("space", torch.zeros(3, D))

    def forward(self, x: Tensor) -> Tensor:
        self.space[: len(x)] = x.detach()
        return self.space[: len(x)]


CROSSING = {
    "a buffer": (_Reuses(), "send a weight or buffer itself"),
    "whole numbers": (Part(lambda m, x: x.long(), nn.Identity()), "torch.int64"),
    "a tuple": (Part(lambda m, x: (x, x), nn.Identity()), "a tuple"),
    "the batch in second place": (Part(lambda m, x: x.t(), nn.Identity()), "the first dimension"),
}


@pytest.mark.parametrize("name", CROSSING)
def test_what_cannot_cross_is_named(name: str) -> None:
    first, words = CROSSING[name]
    last = Part(lambda m, x: (x[0] if isinstance(x, tuple) else x).float().sum(), nn.Identity())
    net = nn.Sequential(first, last)
    found = difference(net, [net[:1], net[1:]], Example((D,)))
    assert found is not None
    assert found.part == 1
    assert words in found.what


def test_a_net_that_is_not_repeatable_says_so() -> None:
    made = iter(range(10**6))
    net = nn.Sequential(nn.Linear(D, D), Part(lambda m, x: x + next(made), nn.Identity()))
    found = difference(net, [net[:1], net[1:]], Example((D,)))
    assert found is not None
    assert "the net differs from itself" in found.what


def test_nothing_is_left_behind() -> None:
    net = _net()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    draws = torch.get_rng_state()
    difference(net, [net[:1], net[1:]], Example((D,)))
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert [module.training for module in net] == [True, False, True]
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), draws)
