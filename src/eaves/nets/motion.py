"""A net for what sensors of motion feel: windows of several channels, one moment beside the other.

Dimension key:  B batch   C channels   H = 1   W moments   K classes
"""

from collections import OrderedDict

from torch import nn

from eaves.core.net import StagedNet

_WIDTHS = (32, 64, 96, 128)
_KERNELS = (9, 5, 5, 5)


def motion(channels: int, classes: int) -> StagedNet:
    """Return four convolutions along time and a linear layer: (B, channels, 1, W) -> (B, classes).

    Each halves the time. For windows of 128 moments of 12 channels there are 2,048, 2,048, 1,536
    and 1,024 values after the convolutions, and 1.5 M multiplications in all.

    >>> motion(12, 6).names
    ('conv1', 'conv2', 'conv3', 'conv4', 'head')
    """
    inputs = (channels, *_WIDTHS)
    head = OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(_WIDTHS[-1], classes)
    )
    return StagedNet(
        [
            *(
                (f"conv{i + 1}", _conv(inputs[i], width, kernel))
                for i, (width, kernel) in enumerate(zip(_WIDTHS, _KERNELS, strict=True))
            ),
            ("head", nn.Sequential(head)),
        ]
    )


def _conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Return a convolution of 1 x ``kernel``: rows, of which there is one, are never mixed."""
    padding = (0, kernel // 2)
    conv = nn.Conv2d(channels, width, (1, kernel), stride=(1, 2), padding=padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), act=nn.ReLU()))
