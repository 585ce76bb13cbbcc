"""The nets of an attacker who works on images: up to an image, and down to an answer.

Dimension key:  B batch   C channels   H, W height and width   D features   K answers
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil, log2, prod
from time import perf_counter
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import spectral_norm

from eaves.core.ssim import WHITE
from eaves.errors import ConfigError

_SLOPE = 0.2
_SMALLEST = 4  # side of the map that flat features become, and at which a net down ends
_WIDEST = 8  # times the width: channels of the smallest maps
_TRIES = 4  # the first is slower than the others
_CLEARLY = 0.8  # of the time: near 1 each audit might choose otherwise

Shape = Sequence[int]
Net = TypeVar("Net", bound=nn.Module)


@final
class Upward(nn.Module):
    """Features (B, C, H, W) or (B, D) -> images (B, C, H, W) in [0, 1].

    Transposed convolutions of 4 x 4 and stride 2, BatchNorm and LeakyReLU of 0.2 double the sides
    until they reach those of the image; ``width`` is how many channels the last map before it has.
    Features of any other number of dimensions count as flat ones.

    Raises:
        ConfigError: ``image_shape`` is not (1, H, W) or (3, H, W).
    """

    def __init__(self, feature_shape: Shape, image_shape: Shape, *, width: int):
        super().__init__()
        expect_image(image_shape)
        self._side = tuple(image_shape[1:])
        if len(feature_shape) == 3:
            self._doublings = _doublings(feature_shape[1:], self._side)
            self.stem: nn.Module = nn.Conv2d(feature_shape[0], self._width(width), 3, padding=1)
        else:
            self._doublings = _doublings((_SMALLEST, _SMALLEST), self._side)
            start = (self._width(width), _SMALLEST, _SMALLEST)
            flat = nn.Linear(prod(feature_shape), prod(start))
            self.stem = nn.Sequential(nn.Flatten(), flat, nn.Unflatten(1, start))
        self.body = self._body(width, image_shape[0])

    def _width(self, width: int, after: int = 0) -> int:
        """Return the channels of the map that ``after`` doublings have led to."""
        left = self._doublings - after
        return width * min(_WIDEST, 1 << max(0, left - 1))

    def _body(self, width: int, channels: int) -> nn.Sequential:
        layers = [nn.BatchNorm2d(self._width(width)), nn.LeakyReLU(_SLOPE)]
        for i in range(self._doublings - 1):
            wide, narrow = self._width(width, i), self._width(width, i + 1)
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(narrow), nn.LeakyReLU(_SLOPE)]
        if self._doublings:
            last: nn.Module = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)
        else:
            last = nn.Conv2d(width, channels, 3, padding=1)
        return nn.Sequential(*layers, last)

    def forward(self, z: Tensor) -> Tensor:
        """(B, ...) float32 -> float32 images (B, C, H, W) in [0, 1]."""
        x_BCHW = self.body(self.stem(z)).float()
        if x_BCHW.shape[2:] != self._side:  # sides that are not a power of 2 times those of z
            x_BCHW = interpolate(x_BCHW, self._side, mode="bilinear", antialias=True)
        return torch.sigmoid(x_BCHW)


def classifier(image_shape: Shape, classes: int, *, width: int) -> nn.Sequential:
    """Return a net with BatchNorm: images (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def block(wide: int, wider: int) -> list[nn.Module]:
        conv = nn.Conv2d(wide, wider, 3, stride=2, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(wider), nn.LeakyReLU(_SLOPE)]

    return nn.Sequential(nn.BatchNorm2d(image_shape[0]), *_down(image_shape, width, block, classes))


def critic(image_shape: Shape, *, width: int) -> nn.Sequential:
    """Return a net under spectral norm: images (B, C, H, W) in [0, 1] -> scores (B, 1).

    Source: Miyato, Kataoka, Koyama, Yoshida, *Spectral Normalization for Generative Adversarial
    Networks* (2018); there with more layers.
    """

    def block(wide: int, wider: int) -> list[nn.Module]:
        conv = nn.Conv2d(wide, wider, 4, stride=2, padding=1)
        return [spectral_norm(conv), nn.LeakyReLU(_SLOPE)]

    *layers, last = _down(image_shape, width, block, 1)
    return nn.Sequential(_Centred(), *layers, spectral_norm(last))


@final
class _Centred(nn.Module):
    """[0, 1] -> [-1, 1]: under spectral norm no layer can learn a scale or take off a mean."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return 2 * x_BCHW - 1


def _down(
    image_shape: Shape, width: int, block: Callable[[int, int], list[nn.Module]], answers: int
) -> list[nn.Module]:
    """Return layers that halve the sides, each time with twice the channels, and then answer."""
    expect_image(image_shape)
    channels, *sides = image_shape
    layers: list[nn.Module] = []
    for i in range(max(1, _doublings((_SMALLEST, _SMALLEST), sides))):
        wider = width * min(_WIDEST, 1 << i)
        layers += block(channels, wider)
        channels, sides = wider, [ceil(side / 2) for side in sides]
    pool = nn.AdaptiveAvgPool2d(min(_SMALLEST, *sides))
    flat = channels * min(_SMALLEST, *sides) ** 2
    return [*layers, pool, nn.Flatten(), nn.Linear(flat, answers)]


def _doublings(start: Shape, end: Shape) -> int:
    """Return how often the sides ``start`` double until both reach those of ``end``.

    >>> _doublings((8, 8), (64, 64)), _doublings((4, 4), (28, 28)), _doublings((8, 8), (6, 8))
    (3, 3, 0)
    """
    return max(0, *(ceil(log2(e / s)) for s, e in zip(start, end, strict=True)))


def expect_image(shape: Shape) -> None:
    """Raise ``ConfigError`` for a shape that is not (1, H, W) or (3, H, W)."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ConfigError(
            f"expected images (1, H, W) or (3, H, W), got {tuple(shape)}; the reconstruction "
            "attacks are for images only"
        )


def channels_last(net: Net) -> Net:
    """Return ``net`` with its weights laid out as :func:`fast` wants them."""
    moved: Net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fast() -> torch.autocast:
    """Return the context in which convolutions are fastest here: in bfloat16, or as they are."""
    return torch.autocast("cpu", torch.bfloat16, enabled=halves())


@lru_cache(maxsize=1)
def halves() -> bool:
    """Return whether bfloat16 is clearly faster than float32 here, by a step of a small net.

    Measured once in a process. Without the instructions for it, bfloat16 may take eight times as
    long, and attackers would be ended by their time after the first of many rounds.
    """
    whole, half = (
        min(_step_s(enabled=enabled) for _ in range(_TRIES)) for enabled in (False, True)
    )
    return half < _CLEARLY * whole


def precision() -> str:
    """Return the name of what :func:`fast` computes in.

    >>> precision() in ("bf16", "fp32")
    True
    """
    return "bf16" if halves() else "fp32"


def _step_s(*, enabled: bool) -> float:
    """Return the time of one step forth and back."""
    with torch.random.fork_rng(devices=[]):
        conv = channels_last(nn.Conv2d(32, 32, 3, padding=1))
        x_BCHW = torch.randn(32, 32, 16, 16).contiguous(memory_format=torch.channels_last)
    start_s = perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        y_BCHW = conv(conv(x_BCHW).relu())
    torch.autograd.backward(y_BCHW.float().square().mean())
    return perf_counter() - start_s


@final
class Quick(nn.Module):
    """A net, perhaps a large one, that computes in what is fastest and answers in float32."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = channels_last(net)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the net makes of (B, ...)."""
        with fast():
            y: Tensor = self.net(x)
        return y.float()


def as_bytes(x_BCHW: Tensor) -> Tensor:
    """Return images in [0, 1] as raw ones: rounded, uint8, in 0..255."""
    return (x_BCHW.detach() * WHITE).round().clamp(0, WHITE).to(torch.uint8)


def as_shares(x_BCHW: Tensor) -> Tensor:
    """Return raw images as float32 in [0, 1], laid out channels last."""
    return (x_BCHW.float() / WHITE).contiguous(memory_format=torch.channels_last)
