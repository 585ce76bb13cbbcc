"""A residual net with thin ends, which a device can have both, around a broad middle.

Past the middle leads a linear path: answers to mixtures (:mod:`eaves.methods.datamix`) are taken
apart exactly along it, and the device's last block takes from the middle what can be trusted.

Blocks of He et al. 2016, *Identity Mappings in Deep Residual Networks*, with SiLU; widths are ours.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from eaves.core.net import StagedNet


def spindle(channels: int, classes: int) -> StagedNet:
    """Return images (B, channels, H, W) of 16x16 or more -> logits (B, classes).

    For an image of 32x32: 38 M multiplications, 82 % of them in ``middle``; 8,192 values go into it
    and 2,048 come out.

    >>> spindle(3, 10).names
    ('stem', 'block1', 'norm', 'middle', 'block2', 'head')
    """
    head = OrderedDict(
        bn=nn.BatchNorm2d(64),
        act=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, classes),
    )
    return StagedNet(
        [
            ("stem", nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)),
            ("block1", _Block(32, 32)),
            ("norm", nn.BatchNorm2d(32)),
            ("middle", _Middle()),
            ("block2", _Block(128, 64)),
            ("head", nn.Sequential(head)),
        ]
    )


@final
class _Middle(nn.Module):
    """Maps (B, 32, H, W) -> (B, 128, H/4, W/4): 64 channels of each path."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(32, 64, 8, stride=4, padding=2, bias=False)
        self.broad = nn.Sequential(
            _Block(32, 64),
            _Block(64, 128, stride=2),
            nn.BatchNorm2d(128),
        )
        self.narrow = nn.Conv2d(128, 64, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept_BCHW = self.linear(x_BCHW)
        pooled_BCHW = adaptive_avg_pool2d(self.broad(x_BCHW), kept_BCHW.shape[2:])
        return torch.cat([kept_BCHW, self.narrow(pooled_BCHW)], dim=1)


@final
class _Block(nn.Module):
    """Two 3x3 convolutions, each behind its norm and activation, and a shortcut past all of it."""

    def __init__(self, width_in: int, width: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.act = nn.SiLU()
        same = width_in == width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BCHW = self.conv1(self.act(self.bn1(x_BCHW)))
        out_BCHW: Tensor = self.shortcut(x_BCHW) + self.conv2(self.act(self.bn2(z_BCHW)))
        return out_BCHW
