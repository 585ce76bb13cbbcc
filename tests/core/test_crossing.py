"""Which values of a trace may cross a cut, and which need not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from eaves.core.crossing import Batch, Values, overwrites
from eaves.core.example import Example


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], object]):
        super().__init__()
        self.given = forward
        self.act = nn.ReLU(inplace=True)
        self.table = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> object:
        return self.given(self, x)


def _values(forward: Callable[[Any, Tensor], object], *, given: bool = True) -> tuple[Any, Values]:
    module = fx.symbolic_trace(Net(forward))
    example = Example((4, 6))
    example.given = given
    return {n.name: n for n in module.graph.nodes}, Values(module.graph, module, example)


def test_features_are_floating_point_with_the_batch_first() -> None:
    nodes, values = _values(
        lambda n, x: (
            x.relu(),
            x.long(),
            x.transpose(0, 1),
            x.reshape(-1, 6),
            x.sum(),
            x.flatten(1) @ x.flatten(1).t(),
            (x, x),
        )
    )
    crossing = {name for name, node in nodes.items() if node in values.features}
    assert crossing == {"x", "relu", "flatten", "flatten_1"}


def _sized(n: Any, x: Tensor) -> Tensor:
    batch, more = x.shape[0], x.size(2) * 2
    return x.view(batch, -1)[:, :more] + x.shape[1]


@pytest.mark.parametrize("given", [True, False])
def test_numbers_that_follow_from_the_batch_are_known(given: bool) -> None:
    nodes, values = _values(_sized, given=given)
    known = {name: values.known[node] for name, node in nodes.items() if node in values.known}
    assert known["getitem"] == Batch()
    if given:  # else another size of images would be as good
        assert known["getattr_1"] == (Batch(), 4, 6)
        assert known["mul"] == 12
    else:
        assert set(known) == {"getitem"}


def test_a_number_from_data_is_not_known_though_it_is_the_same() -> None:
    nodes, values = _values(lambda n, x: x * (x * 0).sum().int().item())
    assert nodes["item"] not in values.known
    assert nodes["item"] not in values.free


def test_what_is_made_of_weights_is_free_unless_it_is_changed_or_drawn() -> None:
    nodes, values = _values(lambda n, x: x + n.table.exp() + torch.rand_like(n.table))
    assert nodes["exp"] in values.free
    assert nodes["rand_like"] not in values.free
    assert nodes["add"] not in values.free
    nodes, values = _values(lambda n, x: x + (n.table * 1).add_(1).exp())
    assert not {nodes["exp"], nodes["mul"]} & values.free


def test_work_in_place_is_seen() -> None:
    net = Net(lambda n, x: (n.act(x), x.add_(1), x.add(1), nn.functional.relu(x, inplace=True)))
    graph = fx.symbolic_trace(net).graph
    source, *nodes = (node for node in graph.nodes if node.op != "output")
    assert [overwrites(net, node, source) for node in nodes] == [True, True, False, True]
