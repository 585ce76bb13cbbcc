"""Every net by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from eaves.core.net import StagedNet, output_shape
from eaves.errors import ConfigError, MisfitError, unknown
from eaves.nets.foreign import foreign_net, is_foreign
from eaves.nets.mobilevit import mobilevit_xxs
from eaves.nets.motion import motion
from eaves.nets.own import is_own, own_net
from eaves.nets.resnet import STEMS, resnet18, resnet20, resnet34, resnet56
from eaves.nets.small import compact, small
from eaves.nets.speech import ds_cnn, res8
from eaves.nets.spindle import spindle
from eaves.nets.vgg import vgg11, vgg16


@final
@dataclass(frozen=True, kw_only=True)
class NetEntry:
    """One of our nets: how to build it, and what to tell about it."""

    build: Callable[..., StagedNet]
    """Called with (channels, classes), and the stem where there is a choice."""
    stems: tuple[str, ...] = ()
    """The stems to choose from, the default first; empty where there is no choice."""
    smallest: tuple[int, int] = (8, 8)
    """The least height and width of an input."""
    about: str
    source: str


_HE = "He et al. 2015, Deep Residual Learning for Image Recognition"
_SIMONYAN = "Simonyan and Zisserman 2015, Very Deep Convolutional Networks, Table 1"

_MOST_CLASSES = 1_000_000

NETS: dict[str, NetEntry] = {
    "small": NetEntry(
        build=small,
        about="three convolutions, for 8x8 digits and quick trials",
        source="ours",
    ),
    "compact": NetEntry(
        build=compact,
        smallest=(16, 16),
        about="five convolutions, for photographs of 64x64 on a CPU",
        source="ours",
    ),
    "vgg11": NetEntry(
        build=vgg11,
        smallest=(32, 32),
        about="8 convolutions with batch normalisation and one linear layer",
        source=_SIMONYAN,
    ),
    "vgg16": NetEntry(
        build=vgg16,
        smallest=(32, 32),
        about="13 convolutions with batch normalisation and one linear layer",
        source=_SIMONYAN,
    ),
    "resnet18": NetEntry(
        build=resnet18,
        stems=STEMS,
        about="residual net of 18 layers; stem 'cifar' keeps small images at full resolution",
        source=f"{_HE}, Table 1",
    ),
    "resnet34": NetEntry(
        build=resnet34,
        stems=STEMS,
        about="residual net of 34 layers; stem 'cifar' keeps small images at full resolution",
        source=f"{_HE}, Table 1",
    ),
    "resnet20": NetEntry(
        build=resnet20,
        about="narrow residual net of 20 layers for images of 32x32",
        source=f"{_HE}, section 4.2",
    ),
    "resnet56": NetEntry(
        build=resnet56,
        about="narrow residual net of 56 layers for images of 32x32",
        source=f"{_HE}, section 4.2",
    ),
    "mobilevit_xxs": NetEntry(
        build=mobilevit_xxs,
        about="convolutions and attention for mobile devices, as in timm",
        source="Mehta and Rastegari 2022, MobileViT, Table 4",
    ),
    "spindle": NetEntry(
        build=spindle,
        smallest=(16, 16),
        about="thin ends for a device, a broad middle for a cloud that gets mixtures (datamix)",
        source="ours, of blocks of He et al. 2016, Identity Mappings in Deep Residual Networks",
    ),
    "ds_cnn": NetEntry(
        build=ds_cnn,
        about="depthwise separable convolutions for microcontrollers, for spoken words",
        source="Zhang et al. 2017, Hello Edge: Keyword Spotting on Microcontrollers, DS-CNN (S)",
    ),
    "res8": NetEntry(
        build=res8,
        about="narrow residual net of 8 layers, for spoken words",
        source="Tang and Lin 2018, Deep Residual Learning for Small-Footprint Keyword Spotting",
    ),
    "motion": NetEntry(
        build=motion,
        smallest=(1, 32),
        about="four convolutions along time, for windows of what a phone's sensors of motion feel",
        source="ours",
    ),
}


def build_net(
    name: str, *, classes: int, input_shape: tuple[int, int, int], stem: str | None = None
) -> StagedNet:
    """Return a net that takes images (B, C, H, W) of ``input_shape`` to logits (B, classes).

    ``name`` is one of :data:`NETS`, ``timm:NAME``, ``torchvision:NAME``, or ``FILE.py:NAME`` for a
    net of your own (see :mod:`eaves.nets.own`: the file is run). ``stem`` is a choice that some
    nets have; left out it is the first of their ``stems``, whatever the size of the images. The
    weights are random, from torch's global generator: seed it with ``torch.manual_seed``.

    Raises:
        ConfigError: no such net or stem, or it cannot take these images or give these classes.
        CutError: a net of another library, or of your own, cannot be traced.

    >>> build_net("resnet20", classes=10, input_shape=(3, 32, 32)).names
    ('stem', 'layer1', 'layer2', 'layer3', 'head')
    """
    if not 2 <= classes <= _MOST_CLASSES:
        raise ConfigError(f"expected 2 or more classes, up to {_MOST_CLASSES:,}, got {classes:,}")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ConfigError(
            f"expected an input shape of (channels, height, width), got {input_shape}"
        )
    if name in NETS:
        return _ours(name, classes, input_shape, stem)
    if stem is not None:
        choosing = ", ".join(key for key, entry in NETS.items() if entry.stems)
        raise ConfigError(f"only {choosing} have a choice of stem; leave it out for {name!r}")
    if is_own(name):
        net = own_net(name, classes=classes, input_shape=input_shape)
    elif is_foreign(name):
        net = foreign_net(name, classes=classes, input_shape=input_shape)
    else:
        raise unknown("net", name, [*NETS, "timm:NAME", "torchvision:NAME", "FILE.py:NAME"])
    _check_answer(net, name, classes, input_shape)
    return net


def _ours(
    name: str, classes: int, input_shape: tuple[int, int, int], stem: str | None
) -> StagedNet:
    entry = NETS[name]
    channels, height, width = input_shape
    if not _takes(entry, height, width):
        fitting = [key for key, other in NETS.items() if _takes(other, height, width)]
        instead = f", or use a net that takes them: {', '.join(fitting)}" if fitting else ""
        raise MisfitError(
            f"{name} needs images of at least {'x'.join(map(str, entry.smallest))}, "
            f"got {height}x{width}; enlarge them{instead}"
        )
    if entry.stems:
        return entry.build(channels, classes, entry.stems[0] if stem is None else stem)
    if stem is not None:
        raise ConfigError(f"{name} has no choice of stem, got {stem!r}; leave it out")
    return entry.build(channels, classes)


def _takes(entry: NetEntry, height: int, width: int) -> bool:
    return entry.smallest[0] <= height and entry.smallest[1] <= width


def _check_answer(
    net: StagedNet, name: str, classes: int, input_shape: tuple[int, int, int]
) -> None:
    """Try a net that we do not know on one image of zeros."""
    answer = output_shape(net, input_shape)
    if answer != (classes,):
        raise MisfitError(
            f"expected {name} to answer each image with {classes} logits, got shape {answer}"
        )
