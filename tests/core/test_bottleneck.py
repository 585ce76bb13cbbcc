import pytest
import torch
from torch import Tensor, nn

from eaves.core.bottleneck import with_bottleneck
from eaves.core.net import SplitNet, split_at
from eaves.core.specs import parse_bottleneck
from eaves.errors import ConfigError


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 5),
    )


def _state(*parts: nn.Module) -> dict[int, Tensor]:
    """Return the tensors by their place in memory: names differ between a net and its parts."""
    return {t.data_ptr(): t for part in parts for t in (*part.parameters(), *part.buffers())}


@pytest.mark.parametrize(
    ("cut", "shape", "channels"),
    [("0", (8, 8, 8), 2), ("1", (4, 3, 3), 1), ("1", (4, 3, 3), 3), ("2", (36,), 5)],
)
def test_a_bottleneck_narrows_the_features_and_nothing_else(
    cut: str, shape: tuple[int, ...], channels: int
) -> None:
    split = split_at(_net(), cut)
    narrow = with_bottleneck(split, shape, channels)
    z = narrow.edge(torch.randn(2, 3, 8, 8))
    assert z.shape == (2, channels, *shape[1:])
    assert bool((z >= 0).all())
    assert narrow.cloud(z).shape == (2, 5)
    assert narrow.cut == cut
    assert _state(split.edge).keys() <= _state(narrow.edge).keys()
    assert _state(split.cloud).keys() <= _state(narrow.cloud).keys()


@pytest.mark.parametrize("channels", [-1, 0, 4, 5])
def test_a_bottleneck_must_be_narrower_than_the_features(channels: int) -> None:
    split = split_at(_net(), "1")
    message = rf"of 1 to 3 channels at cut '1' \(its features have 4\), got {channels}$"
    with pytest.raises(ConfigError, match=message):
        with_bottleneck(split, (4, 3, 3), channels)


@pytest.mark.parametrize("shape", [(), (4, 3), (4, 1, 3, 3)])
def test_a_bottleneck_needs_flat_features_or_images(shape: tuple[int, ...]) -> None:
    split = SplitNet(nn.Identity(), nn.Identity(), "here")
    with pytest.raises(ConfigError, match=r"needs \(C,\) or \(C, H, W\) features"):
        with_bottleneck(split, shape, 2)


@pytest.mark.parametrize(
    ("wanted", "shape"), [("2x8x8", (2, 8, 8)), ("1x2x2", (1, 2, 2)), ("8x4x4", (8, 4, 4))]
)
def test_a_bottleneck_can_shrink_the_map_too(wanted: str, shape: tuple[int, ...]) -> None:
    narrow = with_bottleneck(split_at(_net(), "0"), (8, 8, 8), wanted)
    z = narrow.edge(torch.randn(2, 3, 8, 8))
    assert z.shape == (2, *shape)
    assert narrow.cloud(z).shape == (2, 5)


def test_a_map_of_odd_size_is_halved_as_convolutions_do() -> None:
    narrow = with_bottleneck(split_at(_net(), "1"), (4, 3, 3), "1x2x2")
    z = narrow.edge(torch.randn(2, 3, 8, 8))
    assert z.shape == (2, 1, 2, 2)
    assert narrow.cloud(z).shape == (2, 5)


def test_features_to_be_bounded_afterwards_are_not_cut_off_at_zero() -> None:
    narrow = with_bottleneck(split_at(_net(), "0"), (8, 8, 8), "2x4x4", ends_open=True)
    assert bool((narrow.edge(torch.randn(9, 3, 8, 8)) < 0).any())


def test_a_map_that_halving_does_not_reach_is_refused_with_those_it_does() -> None:
    with pytest.raises(ConfigError, match="can have maps of 8x8, 4x4, 2x2, 1x1, got 3x3"):
        with_bottleneck(split_at(_net(), "0"), (8, 8, 8), "2x3x3")
    with pytest.raises(ConfigError, match="can have maps of channels alone, got 1x1"):
        with_bottleneck(split_at(_net(), "2"), (36,), "2x1x1")


@pytest.mark.parametrize("wanted", ["", "two", "2x4", "2x4x4x4", "2x0x4", "2x4x9999"])
def test_what_is_no_bottleneck_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match="as in 8 or 2x4x4, got"):
        parse_bottleneck(wanted)
