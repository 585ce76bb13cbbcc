"""Small nets: one for 8x8 digits, in seconds on one CPU core, one for photographs, in minutes.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections import OrderedDict

from torch import nn

from eaves.core.net import StagedNet


def small(channels: int, classes: int) -> StagedNet:
    """Return three 3x3 convolutions and a linear layer: (B, channels, H, W) -> (B, classes).

    For an 8x8 image the features have 2,048, 1,024 and 512 values after the convolutions.

    >>> small(1, 10).names
    ('conv1', 'conv2', 'conv3', 'head')
    """
    head = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(128, classes)
    )
    return StagedNet(
        [
            ("conv1", _conv(channels, 32, stride=1)),
            ("conv2", _conv(32, 64, stride=2)),
            ("conv3", _conv(64, 128, stride=2)),
            ("head", nn.Sequential(head)),
        ]
    )


def compact(channels: int, classes: int) -> StagedNet:
    """Return five 3x3 convolutions and a linear layer: (B, channels, H, W) -> (B, classes).

    39 M multiplications for a photograph of 64x64, a quarter of a ResNet-18's; 15 % of them are in
    the first two layers.

    >>> compact(3, 2).names
    ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'head')
    """
    head = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(256, classes)
    )
    return StagedNet(
        [
            ("conv1", _conv(channels, 32, stride=2)),
            ("conv2", _conv(32, 64, stride=2)),
            ("conv3", _conv(64, 128, stride=2)),
            ("conv4", _conv(128, 256, stride=1)),
            ("conv5", _conv(256, 256, stride=2)),
            ("head", nn.Sequential(head)),
        ]
    )


def _conv(channels: int, width: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), act=nn.ReLU()))
