"""A trace ends where it would lose something; what is kept whole stays one operation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from eaves.core.surroundings import Surroundings
from eaves.core.tracer import Kept, trace
from eaves.errors import CutError


class Inner(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.given, self.calls = forward, 0
        self.register_buffer("n", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.given(self, x)


def _traced(net: nn.Module, kept: Kept | None = None) -> list[str]:
    graph, _ = trace(net, kept or Kept(), Surroundings(net))
    return [str(node.target) for node in graph.nodes if node.op.startswith("call_module")]


def _counts(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return x * 2


def _draws(m: Any, x: Tensor) -> Tensor:
    return x + torch.rand(1)


def _no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


LOST = {"counts": _counts, "draws": _draws, "no_grad": _no_grad}
WORDS = {"counts": "'calls'", "draws": "random numbers", "no_grad": "whether gradients are kept"}


@pytest.mark.parametrize("name", LOST)
def test_a_submodule_that_does_what_a_trace_loses_is_one_operation(name: str) -> None:
    inner = Inner(LOST[name])
    net = nn.Sequential(nn.ReLU(), inner, nn.Tanh())
    assert _traced(net) == ["0", "1", "2"]
    assert inner.calls == 0


@pytest.mark.parametrize("name", LOST)
def test_a_net_that_does_it_itself_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(CutError, match=f"Inner cannot be cut: its forward .*{WORDS[name]}"):
        _traced(Inner(LOST[name]))


def test_a_plain_submodule_is_looked_into() -> None:
    net = nn.Sequential(nn.ReLU(), Inner(lambda m, x: x * 2 + m.n.shape[0]))
    assert _traced(net) == ["0"]


def test_what_is_kept_is_one_operation_and_others_of_its_class_too() -> None:
    kept, inner = Kept(), Inner(lambda m, x: x * 2)
    kept.add(inner, "0", "a reason")
    assert _traced(nn.Sequential(inner, Inner(lambda m, x: x * 3)), kept) == ["0", "1"]


def test_a_container_of_torch_is_kept_alone() -> None:
    net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh()))
    kept = Kept()
    kept.add(net[0], "0", "a reason")
    assert _traced(net, kept) == ["0", "1.0"]


def test_buffers_are_operations_of_the_trace_and_are_not_run_while_tracing() -> None:
    net: Any = Inner(lambda m, x: x * m.n.add_(1))
    graph, constants = trace(net, Kept(), Surroundings(net))
    assert [n.target for n in graph.nodes if n.op == "get_attr"] == ["n"]
    assert not constants
    assert torch.equal(net.n, torch.ones(3))


def test_tensors_made_in_forward_are_constants() -> None:
    net = Inner(lambda m, x: x * torch.arange(3.0))
    graph, constants = trace(net, Kept(), Surroundings(net))
    module = fx.GraphModule(constants, graph)
    assert torch.equal(module(torch.ones(2, 3)), torch.arange(3.0).expand(2, 3))
    assert not [name for name in vars(net) if "constant" in name]
