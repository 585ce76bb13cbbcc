"""VGG with batch normalisation and one linear layer (Simonyan and Zisserman 2015, Table 1).

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from torch import nn

from eaves.core.net import StagedNet

# Table 1, columns A and D: the channels of the convolutions before each of the five poolings.
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg11(channels: int, classes: int) -> StagedNet:
    """Return VGG-11: images (B, channels, H, W) of at least 32x32 -> logits (B, classes)."""
    return _vgg(_VGG11, channels, classes)


def vgg16(channels: int, classes: int) -> StagedNet:
    """Return VGG-16: images (B, channels, H, W) of at least 32x32 -> logits (B, classes).

    >>> vgg16(3, 10).names
    ('pool1', 'pool2', 'pool3', 'pool4', 'pool5', 'head')
    """
    return _vgg(_VGG16, channels, classes)


def _vgg(blocks: tuple[tuple[int, ...], ...], channels: int, classes: int) -> StagedNet:
    stages: list[tuple[str, nn.Module]] = []
    for i, widths in enumerate(blocks, start=1):
        stages.append((f"pool{i}", _block(channels, widths)))
        channels = widths[-1]
    # DIFFERS(Simonyan and Zisserman 2015): one linear layer in place of three, as is usual on small
    # images, after the mean over what is left of the map: 1x1 (the map itself) at 32x32.
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    net = StagedNet([*stages, ("head", head)])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # ours all have one
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return net


def _block(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.MaxPool2d(2))
