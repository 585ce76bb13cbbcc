"""Shapes of the attackers' nets, and how images become shares of white and back."""

import pytest
import torch
from torch import nn

from eaves.audit import convnets
from eaves.audit.convnets import (
    Upward,
    as_bytes,
    as_shares,
    channels_last,
    classifier,
    critic,
    expect_image,
    fast,
    halves,
    precision,
)
from eaves.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = [(5,), (64,), (4, 6), (8, 1, 1), (2, 8, 8), (4, 7, 7), (3, 32, 32)]
IMAGES = [(3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 12)]


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_from_any_features_to_any_image(features: tuple[int, ...], image: tuple[int, ...]) -> None:
    net = channels_last(Upward(features, image, width=4))
    with fast():
        x_BCHW = net(torch.randn(3, *features))
    assert x_BCHW.shape == (3, *image)
    assert x_BCHW.dtype == torch.float32
    assert 0 <= x_BCHW.min() < x_BCHW.max() <= 1
    x_BCHW.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_layers_are_those_of_the_paper() -> None:
    net = Upward((8, 8, 8), (3, 64, 64), width=32)
    ups = [m for m in net.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [(128, 64), (64, 32), (32, 3)]
    assert all((m.kernel_size, m.stride) == ((4, 4), (2, 2)) for m in ups)
    slopes = [m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.2] * 3
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 3


@pytest.mark.parametrize("image", [*IMAGES, (1, 2, 2)], ids=str)
def test_from_any_image_to_answers(image: tuple[int, ...]) -> None:
    x_BCHW = torch.rand(3, *image)
    assert classifier(image, 5, width=4)(x_BCHW).shape == (3, 5)
    assert critic(image, width=4)(x_BCHW).shape == (3, 1)


def test_the_critic_is_steep_nowhere() -> None:
    """Spectral norm bounds each layer; here by the products that 4 x 4 windows can add."""
    torch.manual_seed(0)
    net = critic((3, 16, 16), width=4)
    for _ in range(30):  # the power iteration converges
        net(torch.rand(2, 3, 16, 16))
    net.eval()
    for name, weight in net.named_parameters():
        assert "original" in name or name.endswith("bias")
        del weight
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) < 1.1


def test_what_is_faster_here_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without instructions for bfloat16 it takes eight times as long, and is not used."""
    for slow, name in ((8.0, "fp32"), (0.95, "fp32"), (0.4, "bf16")):
        halves.cache_clear()
        monkeypatch.setattr(convnets, "_step_s", lambda *, enabled, s=slow: s if enabled else 1.0)
        assert precision() == name
        with fast():
            made = torch.ones(2, 2) @ torch.ones(2, 2)
        assert made.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
        monkeypatch.setattr(convnets, "_step_s", lambda *, enabled: 1 / 0)
        assert precision() == name  # once in a process
    halves.cache_clear()


def test_one_step_is_measured_without_a_trace() -> None:
    before = torch.get_rng_state()
    assert 0 < convnets._step_s(enabled=False) < 60
    assert torch.equal(torch.get_rng_state(), before)


def test_bytes_and_shares() -> None:
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(as_bytes(as_shares(x)), x)
    assert as_shares(x).max() == 1
    beyond = torch.tensor([[[[-0.5, 1.5, 0.499, 0.501]]]])
    assert as_bytes(beyond).flatten().tolist() == [0, 255, 127, 128]


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 8), (3, 0, 8), (16,)])
def test_not_an_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="are for images only"):
        expect_image(shape)
    with pytest.raises(ConfigError, match="are for images only"):
        Upward((4,), shape, width=4)
