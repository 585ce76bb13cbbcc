"""A learned narrow place at the cut: fewer channels, and where wanted a smaller map.

Dimension key:  B batch   C channels   H, W height and width
"""

from collections.abc import Sequence
from math import prod

from torch import nn

from eaves.core.net import SplitNet, StagedNet
from eaves.core.specs import parse_bottleneck
from eaves.errors import ConfigError

_DENSE = 1024  # values at the cut, up to which each is mapped to all channels and places


def with_bottleneck(
    split: SplitNet, feature_shape: Sequence[int], wanted: int | str, *, ends_open: bool = False
) -> SplitNet:
    """Narrow the features at the cut by a learned map down, and up again.

    ``feature_shape`` is (C, H, W), or (C,) for flat features. ``wanted`` is a number of channels
    (8), or a whole shape ("2x4x4"): then convolutions of stride 2 halve the map as often as it
    takes. The map down belongs to the edge part, the map up to the cloud part. What is sent is
    sparse, after BatchNorm and ReLU; ``ends_open`` leaves these out, for features that are bounded
    afterwards: their size is then free to grow against the noise. The result is another net: it no
    longer equals the uncut one.

    Raises:
        ConfigError: features that cannot be narrowed, or not to this shape.
    """
    if len(feature_shape) not in (1, 3):
        raise ConfigError(f"a bottleneck needs (C,) or (C, H, W) features, got {feature_shape}")
    channels, side = parse_bottleneck(wanted)
    wide, map_ = feature_shape[0], tuple(feature_shape[1:])
    halvings = _halvings(split.cut, map_, side or map_)
    if not 0 < channels < wide + (halvings > 0):
        raise ConfigError(
            f"expected a bottleneck of 1 to {wide - 1} channels at cut '{split.cut}' "
            f"(its features have {wide}), got {channels}"
        )
    if len(feature_shape) == 1:
        down: list[nn.Module] = [nn.Linear(wide, channels, bias=ends_open)]
        up = [nn.Linear(channels, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU()]
        norm: nn.Module = nn.BatchNorm1d(channels)
    else:
        down = [layer for _ in range(halvings) for layer in _conv(wide, wide, size=3, stride=2)]
        down += [nn.Conv2d(wide, channels, 1, bias=ends_open)]
        up = _widening((channels, *(side or map_)), wide, map_)
        norm = nn.BatchNorm2d(channels)
    down += [] if ends_open else [norm, nn.ReLU()]
    return SplitNet(
        StagedNet([("part", split.edge), ("down", nn.Sequential(*down))]),
        StagedNet([("up", nn.Sequential(*up)), ("part", split.cloud)]),
        split.cut,
    )


def _halvings(cut: str, map_: tuple[int, ...], side: tuple[int, ...]) -> int:
    """Return how often ``map_`` has to be halved to become ``side``."""
    reached, sizes = map_, [map_]
    while map_ and max(reached) > 1:
        reached = tuple(-(-n // 2) for n in reached)  # as a convolution of stride 2 pads
        sizes.append(reached)
    if side not in sizes:
        can = ", ".join("x".join(map(str, size)) for size in sizes if size) or "channels alone"
        raise ConfigError(
            f"a bottleneck at cut '{cut}' can have maps of {can}, got {'x'.join(map(str, side))}"
        )
    return sizes.index(side)


def _widening(narrow: tuple[int, ...], wide: int, map_: tuple[int, ...]) -> list[nn.Module]:
    """Return layers that map (B, *narrow) to (B, wide, *map_)."""
    values, sides = prod(narrow), narrow[1:]
    if sides == map_:
        return _conv(narrow[0], wide, size=1)
    if values > _DENSE:
        return [*_conv(narrow[0], wide, size=3), nn.Upsample(size=map_)]
    # Few values, each with a meaning of its own: a convolution would treat all places alike.
    dense = nn.Linear(values, wide * prod(sides), bias=False)
    spread = [nn.Flatten(), dense, nn.Unflatten(1, (wide, *sides)), nn.BatchNorm2d(wide)]
    return [*spread, nn.ReLU(), nn.Upsample(size=map_)]


def _conv(c_in: int, c_out: int, *, size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
