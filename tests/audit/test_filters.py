"""Filters before ICA: each commutes with the mixing, and answers what its docstring says."""

import pytest
import torch
from torch import Tensor

from eaves.audit.filters import FILTERS, coarse_gradients, filtered, laplacians, usable
from eaves.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize("name", FILTERS)
def test_filtering_a_mixture_is_mixing_what_was_filtered(name: str) -> None:
    sources = maps(2, 3, 4, 6, 5)
    rotation_GKK = torch.linalg.qr(torch.randn(2, 3, 3, generator=seeded(1)).double()).Q
    mixed = (rotation_GKK @ sources.flatten(2)).reshape(sources.shape)
    # Rotations leave the covariance of the channels as it is, by which Laplacians are made white.
    assert torch.allclose(
        filtered(name, mixed),
        rotation_GKK @ filtered(name, sources),
        atol=0.2 if name == "laplacian" else 1e-9,
    )


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"raw"}))
def test_a_constant_leaves_nothing(name: str) -> None:
    assert filtered(name, torch.full((1, 2, 3, 4, 4), 5.0)).abs().max() == 0


def test_coarse_gradients_keep_an_eighth_of_independent_noise() -> None:
    """A gradient of noise has variance 2, one of 2 x 2 means 1 / 4; here of 2 x 10^5 values."""
    noise = maps(1, 1, 1, 320, 320)
    assert filtered("gradient", noise).var().item() == pytest.approx(2, rel=0.03)
    assert coarse_gradients(noise).var().item() == pytest.approx(0.25, rel=0.03)


def test_laplacians_of_a_parabola() -> None:
    """That of x^2 is 2 everywhere: the same at all places, but for the sign of the kernel."""
    x = torch.arange(5.0).square().expand(5, 5)
    curved = torch.stack([x, torch.zeros(5, 5)])[None, :, None]
    found = laplacians(curved)
    assert torch.allclose(found[0, 0], found[0, 0, :1].expand(9))
    assert found[0, 1].abs().max() == 0
    assert found[0, 0, 0] < 0


def test_channels_of_laplacians_are_white() -> None:
    x = maps(3, 2, 1, 40, 40)
    x = torch.cat(
        [x, 2 * x + 0.5 * maps(3, 2, 1, 40, 40).flip(3), maps(3, 2, 1, 40, 40).flip(4)], 2
    )
    flat_CN = laplacians(x).reshape(3, 2, 3, -1).transpose(0, 2).flatten(1)
    assert torch.allclose(torch.cov(flat_CN), torch.eye(3).double(), atol=1e-3)


def test_usable_is_what_does_not_fail() -> None:
    for side in (1, 2, 3, 4):
        x = maps(1, 2, 3, side, 4)
        assert all(filtered(name, x).shape[2] > 0 for name in usable(x))
        for name in set(FILTERS) - set(usable(x)):
            with pytest.raises(ConfigError, match="'raw' takes any"):
                filtered(name, x)
    assert usable(maps(1, 2, 3, 3, 4)) == list(FILTERS)


def test_unknown_filters_are_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"raw, gradient, coarse, laplacian, got 'sobel'"):
        filtered("sobel", maps(1, 2, 1, 4, 4))
