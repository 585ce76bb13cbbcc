"""Residual networks (He et al. 2015, "Deep Residual Learning for Image Recognition").

The layers are named as in torchvision, behind the name of their stage: ``stem.conv1.weight``,
``layer1.0.bn2.bias``, ``head.fc.weight``.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import final

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from eaves.core.net import StagedNet
from eaves.errors import unknown

STEMS = ("imagenet", "cifar")
"""How a ResNet-18 or -34 begins: 7x7 convolution and pooling, by 2 each, or a 3x3 convolution."""


def resnet18(channels: int, classes: int, stem: str = "imagenet") -> StagedNet:
    """Return ResNet-18 (Table 1): images (B, channels, H, W) -> logits (B, classes).

    ``stem`` is one of :data:`STEMS`. That for ImageNet is the default for images of any size;
    "cifar" keeps small images at their full resolution, for 15 times the computation.

    >>> resnet18(3, 10).names
    ('stem', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4', 'head')
    """
    return _resnet((2, 2, 2, 2), (64, 128, 256, 512), _stem(stem, channels), _projection, classes)


def resnet34(channels: int, classes: int, stem: str = "imagenet") -> StagedNet:
    """Return ResNet-34 (Table 1); shapes and ``stem`` as for :func:`resnet18`."""
    return _resnet((3, 4, 6, 3), (64, 128, 256, 512), _stem(stem, channels), _projection, classes)


def resnet20(channels: int, classes: int) -> StagedNet:
    """Return the ResNet-20 for CIFAR-10 (section 4.2, n=3): (B, channels, H, W) -> (B, classes).

    >>> resnet20(3, 10).names
    ('stem', 'layer1', 'layer2', 'layer3', 'head')
    """
    return _resnet((3, 3, 3), (16, 32, 64), _cifar_stem(channels, 16), _PadShortcut, classes)


def resnet56(channels: int, classes: int) -> StagedNet:
    """Return the ResNet-56 for CIFAR-10 (section 4.2, n=9); shapes as for :func:`resnet20`."""
    return _resnet((9, 9, 9), (16, 32, 64), _cifar_stem(channels, 16), _PadShortcut, classes)


_Stages = list[tuple[str, nn.Module]]
_Shortcut = Callable[[int, int], nn.Module]


def _resnet(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    stem: _Stages,
    shortcut: _Shortcut,
    classes: int,
) -> StagedNet:
    stages, width_in = list(stem), widths[0]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        # The first block of every layer but the first halves the map and widens it.
        blocks = [_BasicBlock(width_in, width, None if i == 1 else shortcut(width_in, width))]
        blocks += [_BasicBlock(width, width, None) for _ in range(depth - 1)]
        stages.append((f"layer{i}", nn.Sequential(*blocks)))
        width_in = width
    head = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(width_in, classes)
    )
    net = StagedNet([*stages, ("head", nn.Sequential(head))])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _stem(kind: str, channels: int) -> _Stages:
    if kind not in STEMS:
        raise unknown("stem", kind, STEMS)
    if kind == "cifar":
        return _cifar_stem(channels, 64)
    conv = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return [("stem", _first(conv)), ("maxpool", nn.MaxPool2d(3, stride=2, padding=1))]


def _cifar_stem(channels: int, width: int) -> _Stages:
    return [("stem", _first(nn.Conv2d(channels, width, 3, padding=1, bias=False)))]


def _first(conv: nn.Conv2d) -> nn.Sequential:
    bn = nn.BatchNorm2d(conv.out_channels)
    return nn.Sequential(OrderedDict(conv1=conv, bn1=bn, relu=nn.ReLU()))


def _projection(width_in: int, width: int) -> nn.Module:
    """Option B of section 3.3: a 1x1 convolution, named as in torchvision (``downsample.0``)."""
    conv = nn.Conv2d(width_in, width, 1, stride=2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


@final
class _PadShortcut(nn.Module):
    """Option A of section 3.3, which section 4.2 uses: every other pixel, and channels of zeros."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.extra = width - width_in

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return pad(x_BCHW[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))


@final
class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (Figure 2); one with a ``downsample`` halves the map."""

    def __init__(self, width_in: int, width: int, downsample: nn.Module | None):
        super().__init__()
        stride = 1 if downsample is None else 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity() if downsample is None else downsample

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BCHW = relu(self.bn1(self.conv1(x_BCHW)))
        return relu(self.bn2(self.conv2(z_BCHW)) + self.downsample(x_BCHW))
