"""Every net takes features of any shape with a label, and both can change its answer."""

import pytest
import torch
from torch import nn

from eaves.audit.readers import Reader, Told, deep, linear, mlp

SHAPES = [(5,), (2, 4, 4), (3, 9), (4, 8, 8), (3, 16, 16), (4, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("build", [linear, mlp, deep])
def test_features_and_label_both_count(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(shape, 3, 4).eval()
        z = torch.randn(6, *shape)
    labels_BL = torch.eye(3).repeat(2, 1)
    logits_BK = net(z, labels_BL)
    assert logits_BK.shape == (6, 4)
    assert not torch.allclose(logits_BK, net(z, labels_BL.roll(1, 0)))
    assert not torch.allclose(logits_BK, net(z.roll(1, 0), labels_BL))


def test_there_are_convolutions_where_there_is_something_to_convolve() -> None:
    def convolves(shape: tuple[int, ...]) -> bool:
        return any(isinstance(part, nn.Conv2d) for part in deep(shape, 2, 2).modules())

    assert [convolves(s) for s in [(2, 4, 4), (8, 16, 16), (8, 2, 2), (64,), (8, 64)]] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("shape", [(5,), (5, 4, 4)], ids=str)
def test_a_net_is_told_the_label_by_shifts_that_are_0_at_first(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    z, labels_BL = torch.randn(4, *shape), torch.eye(2).repeat(2, 1)
    plain = net(z)
    told = Told(net, channels=5, labels=2, classes=3)
    assert torch.equal(told(z, labels_BL), plain)
    nn.init.ones_(told.logits.weight)
    assert torch.allclose(told(z, labels_BL), plain + 1)
    nn.init.constant_(told.channels.weight, 0.5)
    assert torch.allclose(told(z, labels_BL), net(z + 0.5) + 1)


def test_a_reader_puts_the_label_behind_what_its_trunk_makes() -> None:
    read = Reader(nn.AvgPool1d(2), nn.Identity())
    z, labels_BL = torch.ones(1, 3, 4), torch.tensor([[0.0, 1.0]])
    assert read(z, labels_BL).tolist() == [[1.0] * 6 + [0.0, 1.0]]
