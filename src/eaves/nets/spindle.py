"""A residual net that is thin at both ends, so that a device can have both, and a cloud the rest.

Blocks of He et al. 2016, *Identity Mappings in Deep Residual Networks*, with SiLU; widths are ours.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections import OrderedDict
from typing import final

from torch import Tensor, nn

from eaves.core.net import StagedNet


def spindle(channels: int, classes: int) -> StagedNet:
    """Return four residual blocks: images (B, channels, H, W) of 16x16 or more -> (B, classes).

    35 M multiplications for an image of 32x32: 14 % of them before ``block2``, and 3 % behind
    ``neck``, which hands on a map of an eighth of the image's sides.

    >>> spindle(3, 10).names
    ('stem', 'block1', 'block2', 'block3', 'neck', 'block4', 'head')
    """
    stem = OrderedDict(
        conv=nn.Conv2d(channels, 24, 3, padding=1, bias=False), avgpool=nn.AvgPool2d(2)
    )
    neck = OrderedDict(
        bn=nn.BatchNorm2d(128), avgpool=nn.AvgPool2d(2), conv=nn.Conv2d(128, 64, 1, bias=False)
    )
    head = OrderedDict(
        bn=nn.BatchNorm2d(64),
        act=nn.SiLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, classes),
    )
    return StagedNet(
        [
            ("stem", nn.Sequential(stem)),
            ("block1", _Block(24, 32)),
            ("block2", _Block(32, 64)),
            ("block3", _Block(64, 128, stride=2)),
            ("neck", nn.Sequential(neck)),
            ("block4", _Block(64, 64)),
            ("head", nn.Sequential(head)),
        ]
    )


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
