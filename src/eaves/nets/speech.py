"""Nets for spoken words, on spectrograms of one second: pitch is the height, time the width.

Both come from papers on wake words, which write time first: a kernel of 10x4 there is 4x10 here.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections import OrderedDict
from typing import final

from torch import Tensor, nn
from torch.nn.functional import relu

from eaves.core.net import StagedNet

_DS_WIDTH, _DS_BLOCKS = 64, 4
_RES_WIDTH, _RES_BLOCKS = 45, 3


def ds_cnn(channels: int, classes: int) -> StagedNet:
    """Return DS-CNN (S): (B, channels, H, W) -> (B, classes).

    A convolution of 10x4 (time, pitch) with a stride of 2x2, four depthwise separable blocks of 64
    channels, a mean over the map, a linear layer. For an image of 40 x 100 there are 64,000 values
    at every cut, and 12 % of the 21 M multiplications are before the first.

    Source: Zhang et al. 2017, *Hello Edge: Keyword Spotting on Microcontrollers*, DS-CNN (S); layer
    sizes as in its authors' code (ARM-software/ML-KWS-for-MCU, train_commands.txt, DS_CNN1).

    >>> ds_cnn(1, 10).names
    ('conv', 'block1', 'block2', 'block3', 'block4', 'head')
    """
    # Where a side is odd the paper's padding (TensorFlow's SAME) makes one more column of the map.
    conv = nn.Conv2d(channels, _DS_WIDTH, (4, 10), stride=2, padding=(1, 4), bias=False)
    head = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(_DS_WIDTH, classes)
    )
    net = StagedNet(
        [
            ("conv", nn.Sequential(_normalised(conv))),
            *((f"block{i + 1}", _separable(_DS_WIDTH)) for i in range(_DS_BLOCKS)),
            ("head", nn.Sequential(head)),
        ]
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return net


def res8(channels: int, classes: int) -> StagedNet:
    """Return res8: (B, channels, H, W) of 8x8 or more -> (B, classes).

    A 3x3 convolution to 45 maps and a mean over 4x3 (time, pitch), three residual blocks of two
    convolutions, a mean over the map, a linear layer. For an image of 40 x 100 there are 14,625
    values at every cut, and 4 % of the 37 M multiplications are before the first.

    Source: Tang and Lin 2018, *Deep Residual Learning for Small-Footprint Keyword Spotting*,
    res8; the order of layers as in its authors' code (castorini/honk).

    >>> res8(1, 10).names
    ('stem', 'res1', 'res2', 'res3', 'head')
    """
    stem = OrderedDict(
        conv=nn.Conv2d(channels, _RES_WIDTH, 3, padding=1, bias=False),
        act=nn.ReLU(),
        avgpool=nn.AvgPool2d((3, 4)),
    )
    head = OrderedDict(
        bn=nn.BatchNorm2d(_RES_WIDTH, affine=False),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(_RES_WIDTH, classes),
    )
    return StagedNet(
        [
            ("stem", nn.Sequential(stem)),
            *((f"res{i + 1}", _ResBlock(first=i == 0)) for i in range(_RES_BLOCKS)),
            ("head", nn.Sequential(head)),
        ]
    )


def _normalised(conv: nn.Conv2d) -> "OrderedDict[str, nn.Module]":
    return OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels), act=nn.ReLU())


def _separable(width: int) -> nn.Sequential:
    """Return a 3x3 convolution of each channel by itself, then a 1x1 convolution of all."""
    depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    pointwise = nn.Conv2d(width, width, 1, bias=False)
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Sequential(_normalised(depthwise)),
            pointwise=nn.Sequential(_normalised(pointwise)),
        )
    )


@final
class _ResBlock(nn.Module):
    """Two 3x3 convolutions, each with its ReLU, and a shortcut.

    The authors' code normalises what goes into the next convolution, and not what goes into the
    next shortcut. So the norm after a sum begins the next block here, and one tensor is all that
    crosses a cut.
    """

    def __init__(self, *, first: bool):
        super().__init__()
        self.bn1 = nn.Identity() if first else nn.BatchNorm2d(_RES_WIDTH, affine=False)
        self.conv1 = nn.Conv2d(_RES_WIDTH, _RES_WIDTH, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_RES_WIDTH, affine=False)
        self.conv2 = nn.Conv2d(_RES_WIDTH, _RES_WIDTH, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BCHW = relu(self.conv1(self.bn1(x_BCHW)))
        return relu(self.conv2(self.bn2(z_BCHW))) + x_BCHW
