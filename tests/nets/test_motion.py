"""The net for windows of motion: what it is made of, what each cut holds, that time alone is mixed.

Dimension key:  B batch   C channels   K classes
"""

from math import prod

import pytest
import torch

from eaves.core.net import cut_points, output_shape, split_at
from eaves.errors import ConfigError
from eaves.nets.build import build_net

_SHAPE = (12, 1, 128)


def test_every_cut_holds_what_the_docstring_says() -> None:
    net = build_net("motion", classes=6, input_shape=_SHAPE)
    shapes = [output_shape(split_at(net, cut).edge, _SHAPE) for cut in cut_points(net)]
    assert shapes == [(32, 1, 64), (64, 1, 32), (96, 1, 16), (128, 1, 8)]
    assert [prod(shape) for shape in shapes] == [2_048, 2_048, 1_536, 1_024]
    convolutions = [12 * 32 * 9, 32 * 64 * 5, 64 * 96 * 5, 96 * 128 * 5]
    norms, head = 2 * (32 + 64 + 96 + 128), 128 * 6 + 6
    assert sum(p.numel() for p in net.parameters()) == sum(convolutions) + norms + head == 107_270
    moments = (64, 32, 16, 8)
    macs = sum(n * t for n, t in zip(convolutions, moments, strict=True)) + 128 * 6
    assert macs / 1e6 == pytest.approx(1.5, abs=0.05)


def test_rows_are_never_mixed_before_the_mean() -> None:
    torch.manual_seed(0)
    net = build_net("motion", classes=6, input_shape=_SHAPE).eval()
    rows_BCHW = torch.randn(2, 12, 3, 128)
    edge = split_at(net, "conv4").edge
    with torch.no_grad():
        apart = torch.cat([edge(rows_BCHW[:, :, i : i + 1]) for i in range(3)], dim=2)
        torch.testing.assert_close(edge(rows_BCHW), apart)


def test_windows_too_short_are_refused_and_it_is_not_offered_for_small_images() -> None:
    with pytest.raises(ConfigError, match="motion needs images of at least 1x32, got 1x31"):
        build_net("motion", classes=6, input_shape=(12, 1, 31))
    with pytest.raises(ConfigError, match=r"or use a net that takes them: motion$"):
        build_net("small", classes=6, input_shape=_SHAPE)
    with pytest.raises(ConfigError) as caught:
        build_net("compact", classes=10, input_shape=(1, 8, 8))
    assert "motion" not in str(caught.value)
