"""Staged nets, the two parts of a cut, bottlenecks and the input layer.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from eaves.core.net import (
    Normalise,
    StagedNet,
    cut_points,
    output_shape,
    split_at,
    staged,
)
from eaves.errors import ConfigError, CutError


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 5),
    )


CUTS = ("0.0", "0.1", "0", "1.0", "1.1", "1", "2")


def _state(*parts: nn.Module) -> dict[int, Tensor]:
    """Return the tensors by their place in memory: names differ between a net and its parts."""
    return {t.data_ptr(): t for part in parts for t in (*part.parameters(), *part.buffers())}


def test_the_stages_are_named_after_the_outermost_module_that_ends_there() -> None:
    assert cut_points(_net()) == CUTS


@pytest.mark.parametrize("cut", CUTS)
def test_both_parts_together_are_the_net_and_share_its_weights(cut: str) -> None:
    net = _net()
    split = split_at(net, cut)
    assert split.cut == cut
    assert _state(split.edge, split.cloud).keys() == _state(net).keys()
    x_BCHW = torch.randn(4, 3, 8, 8)
    for module in (net, split.edge, split.cloud):
        module.eval()
    assert torch.equal(split.cloud(split.edge(x_BCHW)), net(x_BCHW))


@pytest.mark.parametrize("cut", CUTS)
def test_both_parts_train_as_the_net_does_to_the_bit(cut: str) -> None:
    net = _net()
    split = split_at(copy.deepcopy(net), cut)
    x_BCHW = torch.randn(4, 3, 8, 8)
    answer_BK, divided_BK = net(x_BCHW), split.cloud(split.edge(x_BCHW))
    assert torch.equal(answer_BK, divided_BK)
    answer_BK.square().sum().backward()
    divided_BK.square().sum().backward()
    parts = [*split.edge.parameters(), *split.cloud.parameters()]
    buffers = [*split.edge.buffers(), *split.cloud.buffers()]  # BatchNorm's statistics
    assert [p.grad is None for p in parts] == [False] * 10
    for p, q in zip(net.parameters(), parts, strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    for one, other in zip(net.buffers(), buffers, strict=True):
        assert torch.equal(one, other)
    assert any(buffer.any() for buffer in buffers)


def test_a_copied_part_has_weights_of_its_own() -> None:
    split = split_at(_net(), "0")
    assert not _state(copy.deepcopy(split.edge)).keys() & _state(split.edge).keys()


def test_an_unknown_cut_lists_the_valid_ones_with_the_likeliest_first() -> None:
    net = StagedNet([("stem", nn.Linear(2, 2)), ("layer1", nn.ReLU()), ("head", nn.Linear(2, 2))])
    with pytest.raises(CutError, match=r"^unknown cut 'layer'; choose from: layer1, stem$"):
        split_at(net, "layer")
    with pytest.raises(CutError, match="unknown cut 'head'; choose from: "):  # where the net ends
        split_at(net, "head")


def test_a_net_of_one_stage_cannot_be_cut() -> None:
    assert cut_points(nn.Linear(2, 2)) == ()
    with pytest.raises(CutError, match="has one stage only, so there is nowhere to cut it"):
        split_at(nn.Linear(2, 2), "fc")


def test_stages_may_be_called_like_attributes_of_a_module() -> None:
    names = ("float", "type", "names", "forward", "a.b", "a_b", "training", "_attributes")
    net = StagedNet([(name, nn.Linear(2, 2)) for name in names])
    x = torch.randn(3, 2)
    assert tuple(name for name, _ in net.stages()) == net.names == names
    expected = x
    for _, stage in net.stages():
        expected = stage(expected)
    assert torch.equal(net(x), expected)
    assert net.float() is net
    for cut in cut_points(net):
        split = split_at(net, cut)
        assert torch.equal(split.cloud(split.edge(x)), expected)
    other = StagedNet([(name, nn.Linear(2, 2)) for name in names])
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), expected)


def test_stages_come_as_pairs_or_as_a_mapping() -> None:
    stem, head = nn.Linear(2, 3), nn.Linear(3, 1)
    assert StagedNet({"stem": stem, "head": head}).stages() == [("stem", stem), ("head", head)]
    net = StagedNet(iter([("stem", stem), ("head", head)]))
    assert net.stages() == [("stem", stem), ("head", head)]
    assert list(net.state_dict())[:2] == ["stem.weight", "stem.bias"]
    assert staged(net) is net


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_stages_without_or_with_the_same_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected one or more stages with distinct names"):
        StagedNet([(name, nn.ReLU()) for name in names])


def test_stages_that_share_weights_are_refused_but_not_those_without_any() -> None:
    layer, act = nn.Linear(2, 2), nn.ReLU()
    with pytest.raises(CutError, match=r"the stages 'a' and 'c' share weights.* into one stage"):
        StagedNet([("a", layer), ("b", act), ("c", nn.Sequential(layer))])
    assert cut_points(StagedNet([("a", layer), ("b", act), ("c", nn.Linear(2, 2)), ("d", act)]))


# Shapes


def test_the_shape_is_found_without_touching_the_net() -> None:
    net = _net()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    assert output_shape(net, (3, 8, 8)) == (5,)
    assert output_shape(split_at(net, "1").edge, (3, 8, 8)) == (4, 3, 3)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class _Fixed(nn.Module):
    """Refuses as timm's transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 224, "Input width doesn't match model (224)")  # type: ignore[no-untyped-call]
        return x * 1


@pytest.mark.parametrize(
    ("net", "input_shape", "words"),
    [
        (_net(), (1, 8, 8), "an input of 1x8x8 does not fit this net.*use larger images"),
        (_net(), (3, 2, 2), "an input of 3x2x2"),
        (nn.MaxPool2d(4), (3, 2, 2), "an input of 3x2x2"),
        (nn.Flatten(2), (3,), "an input of 3 does not fit"),
        (staged(_Fixed()), (3, 32, 32), r"match model \(224\)"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_and_the_modes_stay(
    net: nn.Module, input_shape: tuple[int, ...], words: str
) -> None:
    net.train()
    with pytest.raises(ConfigError, match=words):
        output_shape(net, input_shape)
    assert all(module.training for module in net.modules())


# The input layer


def test_pixels_become_floats_of_zero_mean_and_unit_deviation() -> None:
    x_BCHW = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    raw_BCHW = x_BCHW.double()
    mean, std = raw_BCHW.mean((0, 2, 3)), raw_BCHW.std((0, 2, 3))
    z_BCHW = Normalise(mean.tolist(), std.tolist())(x_BCHW)
    assert z_BCHW.dtype == torch.float32
    assert torch.allclose(z_BCHW.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(z_BCHW.std((0, 2, 3)), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_any_number_type_becomes_float32(dtype: torch.dtype) -> None:
    z_BC = Normalise([1.0, 2.0], [2.0, 4.0], spatial_dims=0)(torch.full((3, 2), 6, dtype=dtype))
    assert z_BC.dtype == torch.float32
    assert z_BC[0].tolist() == [2.5, 1.0]


def test_the_input_layer_keeps_the_channels_apart_and_travels_with_the_weights() -> None:
    layer = Normalise([0.0, 10.0], [1.0, 5.0], spatial_dims=0)
    assert torch.equal(layer(torch.tensor([[3, 0]])), torch.tensor([[3.0, -2.0]]))
    assert list(layer.state_dict()) == ["mean", "std"]
    assert not list(layer.parameters())
