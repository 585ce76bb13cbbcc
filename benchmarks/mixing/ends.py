"""The net ``spindle`` without its middle: what a device can do alone with the same ends."""

from torch import nn

from eaves.core.net import StagedNet
from eaves.nets.spindle import spindle


def ends(*, classes: int, input_shape: tuple[int, int, int]) -> StagedNet:
    """Return the ends, joined by one convolution of a few multiplications."""
    stages = dict(spindle(input_shape[0], classes).stages())
    stages["middle"] = nn.Conv2d(32, 128, 4, stride=4, bias=False)
    return StagedNet(list(stages.items()))
