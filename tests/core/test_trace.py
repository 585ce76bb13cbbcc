"""Where a module may be cut, what its stages are called, and what cannot be cut at all.

Dimension key:  B batch   D features
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from eaves.core.net import StagedNet, cut_points, split_at, staged
from eaves.core.trace import trace_stages
from eaves.errors import CutError

D = 4
Forward = Callable[["Net", Tensor], object]


class Net(nn.Module):
    """Layers of every kind; its forward pass is the function given."""

    def __init__(self, forward: Forward):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.wide = nn.Linear(2 * D, D)
        self.act = nn.ReLU()
        self.acts = nn.Sequential(nn.ReLU(), nn.Tanh())
        self.block = nn.Sequential(nn.Linear(D, D), nn.Sequential(nn.BatchNorm1d(D), nn.ReLU()))
        self.scale = nn.Parameter(torch.linspace(0.5, 2, D))
        self.offset: Tensor
        self.register_buffer("offset", torch.linspace(-1, 1, D))
        self.given = forward

    def forward(self, x: Tensor) -> object:
        return self.given(self, x)


def _dead_value(net: Net, x: Tensor) -> object:
    z = net.a(x)
    _ = z * 2
    return net.b(z.relu())


def _two_blocks(net: Net, x: Tensor) -> object:
    z = net.a(x)
    z = z + net.act(net.b(z))
    return z + net.block(z)


def _dense(net: Net, x: Tensor) -> object:
    z = net.a(x)
    return net.c(net.wide(torch.cat([z, net.b(z)], 1)))


def _divided(net: Net, x: Tensor) -> object:
    left, right = net.a(x).chunk(2, 1)
    return net.b(torch.cat([right, left], 1))


def _sized(net: Net, x: Tensor) -> object:
    n = x.size(0)  # depends on the batch alone: it does not cross
    return net.c(net.b(net.a(x)).view(n, -1))


def _in_place(net: Net, x: Tensor) -> object:
    z = net.a(x)
    z += 1
    return net.b(functional.relu(z, inplace=True))


CUTS: dict[str, tuple[Forward, tuple[str, ...]]] = {
    "chain": (lambda n, x: n.c(n.b(n.a(x))), ("a", "b")),
    "functions": (
        lambda n, x: n.b(torch.flatten(functional.relu(torch.relu(n.a(x)).tanh()), 1)),
        ("a", "relu", "tanh", "relu_1", "flatten"),
    ),
    "mean": (lambda n, x: n.b(n.a(x).unflatten(1, (D, 1)).mean(2)), ("a", "unflatten", "mean")),
    "residual block": (lambda n, x: n.c(n.a(x) + x), ("add",)),
    "two residual blocks": (_two_blocks, ("a", "add")),
    "shortcut around everything": (lambda n, x: n.b(n.a(x)) + x, ()),
    "dense join": (_dense, ("a", "cat", "wide")),
    "division": (_divided, ("a", "cat")),
    "dead value": (_dead_value, ("a", "relu")),
    "size of the input": (_sized, ("a", "b", "view")),
    "in place": (_in_place, ("a", "add", "relu")),
    "modules of modules": (lambda n, x: n.c(n.block(x)), ("block.0", "block.1.0", "block")),
    "parameter": (lambda n, x: n.b(n.a(x) * n.scale), ("a", "mul")),
    "buffer": (lambda n, x: n.b(n.a(x) + n.offset), ("a", "add")),
    "parameter on both sides": (lambda n, x: n.b(n.a(x) * n.scale) * n.scale, ("a",)),
    "buffer on both sides": (lambda n, x: n.b(n.a(x) + n.offset) - n.offset, ("a",)),
    "module used on both sides": (lambda n, x: n.c(n.a(n.b(n.a(x)))), ("a_1",)),
    "weight tied through a transpose": (
        lambda n, x: n.c(functional.linear(n.b(n.a(x)), n.a.weight.t())),
        ("linear",),
    ),
    "one module without weights used twice": (
        lambda n, x: n.c(n.act(n.b(n.act(n.a(x))))),
        ("a", "act", "b", "act_1"),
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_net_can_be_cut_exactly_where_one_tensor_crosses(name: str) -> None:
    forward, expected = CUTS[name]
    torch.manual_seed(0)
    net = Net(forward).eval()
    x_BD = torch.randn(3, D)
    whole = staged(net)
    assert cut_points(net) == expected
    for cut in expected:
        split = split_at(whole, cut)
        assert torch.equal(split.cloud(split.edge(x_BD)), net(x_BD)), cut


def test_a_module_of_modules_that_is_used_twice_is_cut_both_times() -> None:
    net, x_BD = Net(lambda n, x: n.c(n.acts(n.b(n.acts(n.a(x)))))), torch.randn(3, D)
    cuts = cut_points(net)
    assert len(set(cuts)) == len(cuts) == 6
    for cut in cuts:
        split = split_at(net, cut)
        assert torch.equal(split.cloud(split.edge(x_BD)), net(x_BD)), cut


def _tied_modules() -> nn.Module:
    first, last = nn.Linear(D, D), nn.Linear(D, D)
    last.weight = first.weight
    return nn.Sequential(nn.Linear(D, D), first, nn.ReLU(), last, nn.Linear(D, D))


def test_two_modules_that_share_a_weight_stay_on_one_side() -> None:
    assert cut_points(_tied_modules()) == ("0", "3")


class _Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

    def forward(
        self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, *, flip: bool = False
    ) -> object:
        if mask is not None:
            x = x * mask
        z = self.a(x) * scale
        return self.b(-z if flip else z)


def test_arguments_with_a_default_are_held_at_it() -> None:
    net, x_BD = _Optional(), torch.randn(3, D)
    assert cut_points(net) == ("a", "mul")
    for cut in ("a", "mul"):
        split = split_at(net, cut)
        assert torch.equal(split.cloud(split.edge(x_BD)), net(x_BD))


class _Defaulted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> object:
        return self.b(self.a(x) if mask is None else mask)


def test_the_first_argument_is_the_input_also_with_a_default() -> None:
    net, x_BD = _Defaulted(), torch.randn(3, D)
    assert cut_points(net) == ("a",)
    split = split_at(net, "a")
    assert torch.equal(split.cloud(split.edge(x_BD)), net(x_BD))


class _Resized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> object:
        height = x.shape[2]
        return self.b(self.a(x)).mean((2, 3)) * height


def test_a_net_that_computes_with_its_size_is_cut_for_a_given_size_and_refuses_others() -> None:
    net = _Resized()
    assert "a" not in cut_points(net)
    assert "a" in cut_points(net, example=(1, 8, 8))
    split = split_at(net, "a", example=(1, 8, 8))
    x_BCHW = torch.randn(2, 1, 8, 8)
    assert torch.equal(split.cloud(split.edge(x_BCHW)), net(x_BCHW))
    with pytest.raises(ValueError, match="expected inputs of 1x8x8, for which this net was cut"):
        split.edge(torch.randn(2, 1, 9, 9))


class _Turns(nn.Module):
    """Control flow that fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Doubles(nn.Module):
    """Reads ``self.training`` in Python, which a trace would freeze."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("inner", [_Turns, _Doubles])
def test_a_submodule_that_cannot_be_looked_into_stays_whole(inner: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(D, D), inner(), nn.Linear(D, 2))
    x_BD = torch.randn(5, D)
    assert cut_points(net) == ("0", "1")
    for training in (False, True):
        split = split_at(net.train(training), "1")
        torch.manual_seed(3)  # of the dropout
        answer = net(x_BD)
        torch.manual_seed(3)
        assert torch.equal(split.cloud(split.edge(x_BD)), answer)


def test_dropout_still_drops_only_while_training() -> None:
    net = nn.Sequential(nn.Linear(D, 64), _Doubles(), nn.Dropout(0.5), nn.Linear(64, 64))
    split = split_at(net.train(), "2")
    assert (split.edge(torch.ones(1, D)) == 0).any()
    assert not (split.edge.eval()(torch.ones(1, D)) == 0).any()


class _Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "two inputs": (_Two(), "_Two takes 2 inputs .* expected one tensor in and one tensor out"),
    "two outputs": (
        Net(lambda n, x: (n.a(x), n.b(x))),
        "returns a tuple of 2; expected one tensor in",
    ),
    "named outputs": (
        Net(lambda n, x: {"y": n.a(x)}),
        "returns a dict with the keys 'y'; expected one tensor in",
    ),
    "control flow": (_Turns(), "cannot trace _Turns.*; remove control flow.* eaves.StagedNet"),
    "self.training": (_Doubles(), "_Doubles reads self.training .*; use modules such as nn.Drop"),
    "its input": (nn.Identity(), "Identity does nothing to its input"),
    "an empty net": (nn.Sequential(), "Sequential does nothing to its input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_says_what_to_do(name: str) -> None:
    net, message = REFUSED[name]
    with pytest.raises(CutError, match=message):
        cut_points(net)


def _modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


@pytest.mark.parametrize("refused", [False, True])
def test_tracing_leaves_every_module_in_its_mode(refused: bool) -> None:
    net = Net((lambda n, x: (n.a(x), x)) if refused else (lambda n, x: n.block(n.a(x)))).eval()
    net.block[1].train()
    before = _modes(net)
    if refused:
        with pytest.raises(CutError):
            trace_stages(net)
    else:
        assert len(trace_stages(net)[0]) == 4
    assert _modes(net) == before
    assert {True, False} == set(before)


# A layer is a letter, a residual block the list of what its branch holds.
Layout = list["str | Layout"]
LAYOUTS: st.SearchStrategy[Layout] = st.lists(
    st.recursive(
        st.sampled_from("LRBTF"),
        lambda inside: st.lists(inside, min_size=1, max_size=3),
        max_leaves=4,
    ),
    min_size=1,
    max_size=5,
)


class _Random(nn.Module):
    def __init__(self, layout: Layout):
        super().__init__()
        self.layout = layout
        self.parts = nn.ModuleList(self._part(item) for item in layout)

    @staticmethod
    def _part(item: "str | Layout") -> nn.Module:
        if isinstance(item, list):
            return _Random(item)
        made = {"L": nn.Linear(D, D), "R": nn.ReLU(), "B": nn.BatchNorm1d(D)}
        return made.get(item, nn.Identity())  # of a function: not called

    def forward(self, x: Tensor) -> Tensor:
        for item, part in zip(self.layout, self.parts, strict=True):
            if isinstance(item, list):
                x = x + part(x)
            elif item == "T":
                x = torch.tanh(x)
            elif item == "F":
                x = functional.gelu(x)
            else:
                x = part(x)
        return x


@settings(deadline=None, max_examples=15)  # a busy machine is no failure
@given(layout=LAYOUTS, training=st.booleans(), seed=st.integers(0, 100))
def test_a_chain_of_layers_and_blocks_is_cut_between_them_without_a_trace(
    layout: Layout, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    net, x_BD = _Random(layout).train(training), torch.randn(3, D)
    whole = staged(net)
    assert len(cut_points(whole)) == len(layout) - 1
    with torch.no_grad():
        answer_BD = net(x_BD)
        for cut in cut_points(whole):
            split = split_at(whole, cut)
            assert torch.equal(split.cloud(split.edge(x_BD)), answer_BD), cut


def test_nets_inside_a_net_are_looked_into() -> None:
    inner = StagedNet([("a", nn.Linear(D, D)), ("b", nn.Linear(D, D))])
    assert cut_points(nn.Sequential(inner, nn.Linear(D, 2))) == ("0.a", "0")


def _names(values: Iterable[Tensor]) -> set[int]:
    return {value.data_ptr() for value in values}


def test_no_weight_is_on_both_sides_of_any_cut_and_none_is_lost() -> None:
    net = Net(_two_blocks)
    used = _names(p for part in (net.a, net.b, net.block) for p in part.parameters())
    for cut in cut_points(net):
        split = split_at(net, cut)
        edge, cloud = _names(split.edge.parameters()), _names(split.cloud.parameters())
        assert not edge & cloud
        assert edge | cloud == used


class Spread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(D, D)

    def forward(self, *xs: Tensor) -> Tensor:
        z: Tensor = self.a(xs[0])
        return z


def test_arguments_without_a_name_take_the_input() -> None:
    net, x_BD = nn.Sequential(Spread(), nn.ReLU()), torch.randn(3, D)
    split = split_at(net, "0")
    assert torch.equal(split.cloud(split.edge(x_BD)), net(x_BD))
