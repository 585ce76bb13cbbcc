"""Nets that read a private attribute: (features, task labels) -> logits.

The task label is sent in the clear, so every reader has it: beside the last features it can tell
what the label alone gives away, and how the label changes what the features mean.

Dimension key:  B batch   L classes of the task   K classes of the private attribute
                C channels   ... the shape of the features
"""

from math import prod
from typing import final

import torch
from torch import Tensor, nn

_DEEP = 32  # channels of the first convolution
_LARGEST = 8  # side of the features that the first convolution keeps
_DROPPED = 0.3  # of what a dense layer answers: without noise to learn from, nets learn by heart
_SMALLEST = 4  # below it there is nothing to convolve


@final
class Reader(nn.Module):
    """A trunk on the features; a head on what it makes of them, flattened, and the label."""

    def __init__(self, trunk: nn.Module, head: nn.Module):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, features: Tensor, labels_BL: Tensor) -> Tensor:
        """Return logits (B, K)."""
        flat = self.trunk(features).flatten(1)
        logits_BK: Tensor = self.head(torch.cat([flat, labels_BL], dim=1))
        return logits_BK


@final
class Told(nn.Module):
    """Any net on features (B, C, ...), told the label by a shift of channels and one of logits.

    Both shifts are learned, and 0 before.
    """

    def __init__(self, net: nn.Module, channels: int, labels: int, classes: int):
        super().__init__()
        self.net = net
        self.channels = nn.Linear(labels, channels, bias=False)
        self.logits = nn.Linear(labels, classes, bias=False)
        nn.init.zeros_(self.channels.weight)
        nn.init.zeros_(self.logits.weight)

    def forward(self, features: Tensor, labels_BL: Tensor) -> Tensor:
        """Return logits (B, K)."""
        shift_BC = self.channels(labels_BL)
        shift = shift_BC.reshape(*shift_BC.shape, *(1 for _ in features.shape[2:]))
        logits_BK: Tensor = self.net(features + shift) + self.logits(labels_BL)
        return logits_BK


@final
class Residual(nn.Module):
    """x + f(x), or skip(x) + f(x)."""

    def __init__(self, body: nn.Module, skip: nn.Module):
        super().__init__()
        self.body, self.skip = body, skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        total: Tensor = self.skip(x) + self.body(x)
        return total


def linear(shape: tuple[int, ...], labels: int, classes: int) -> nn.Module:
    """Return a probe: logistic regression."""
    return Reader(nn.Identity(), nn.Linear(prod(shape) + labels, classes))


def mlp(shape: tuple[int, ...], labels: int, classes: int) -> nn.Module:
    """Return two hidden layers."""
    head = [*_dense(prod(shape) + labels, 256), *_dense(256, 256), nn.Linear(256, classes)]
    return Reader(nn.Identity(), nn.Sequential(*head))


def deep(shape: tuple[int, ...], labels: int, classes: int) -> nn.Module:
    """Return residual convolutions, or wide residual layers where there is nothing to convolve."""
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        return _wide(shape, labels, classes)
    stride = 1 if max(shape[1:]) <= _LARGEST else 2
    stem = nn.Sequential(*_conv(shape[0], _DEEP, stride), nn.ReLU())
    trunk = nn.Sequential(stem, _block(_DEEP, _DEEP, 1), _block(_DEEP, 2 * _DEEP, 2))
    pooled = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(_SMALLEST // 2))
    width = 2 * _DEEP * (_SMALLEST // 2) ** 2 + labels
    return Reader(pooled, nn.Sequential(*_dense(width, 128), nn.Linear(128, classes)))


def _wide(shape: tuple[int, ...], labels: int, classes: int) -> nn.Module:
    width = 256
    blocks = [
        Residual(nn.Sequential(*_dense(width, width), *_dense(width, width)), nn.Identity())
        for _ in range(2)
    ]
    head = [*_dense(prod(shape) + labels, width), *blocks, nn.Linear(width, classes)]
    return Reader(nn.Identity(), nn.Sequential(*head))


def _dense(fan_in: int, fan_out: int) -> list[nn.Module]:
    layer = nn.Linear(fan_in, fan_out, bias=False)
    return [layer, nn.BatchNorm1d(fan_out), nn.ReLU(), nn.Dropout(_DROPPED)]


def _conv(fan_in: int, fan_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(fan_out),
    ]


def _block(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    body = nn.Sequential(*_conv(fan_in, fan_out, stride), nn.ReLU(), *_conv(fan_out, fan_out, 1))
    skip = (
        nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)
        if (fan_in, stride) != (fan_out, 1)
        else nn.Identity()
    )
    return nn.Sequential(Residual(body, skip), nn.ReLU())
