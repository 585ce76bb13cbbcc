"""Nets of torchvision and timm, with random weights: nothing is downloaded.

Both belong to the extra ``vision`` and are imported when a net of theirs is asked for.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from eaves.core.net import StagedNet, staged
from eaves.errors import ConfigError, closest_first, unknown

_SHOWN = 10  # of the hundreds of names in a library, those most like the one given

Shape = tuple[int, int, int]


def is_foreign(name: str) -> bool:
    """Return whether ``name`` reads ``timm:NAME`` or ``torchvision:NAME``.

    >>> is_foreign("timm:resnet18"), is_foreign("resnet18")
    (True, False)
    """
    return name.partition(":")[0] in LIBRARIES and ":" in name


def foreign_net(name: str, *, classes: int, input_shape: Shape) -> StagedNet:
    """Return a net of another library for images of ``input_shape`` (C, H, W), cut by tracing.

    Raises:
        ConfigError: the library is missing or broken, has no such net, or cannot build it for these
            images or classes.
        CutError: torch.fx cannot trace the net.
    """
    library, _, model = name.partition(":")
    try:
        net = LIBRARIES[library](model, classes, input_shape)
    except (AssertionError, RuntimeError, TypeError) as error:  # how these libraries refuse
        raise ConfigError(
            f"{name} cannot be built for {classes} classes and images of "
            f"{'x'.join(map(str, input_shape))}: {error}; choose another net or image size"
        ) from error
    return staged(net, input_shape)


def _timm(model: str, classes: int, input_shape: Shape) -> nn.Module:
    timm = _imported("timm")
    if not timm.is_model(model):
        raise _unknown("timm", model, timm.list_models())
    about = timm.get_pretrained_cfg(model)
    channels, *size = input_shape
    # A transformer has an embedding for each place in the image, so it must know the size.
    fixed = {"img_size": tuple(size)} if about is not None and about.fixed_input_size else {}
    net: nn.Module = timm.create_model(
        model, pretrained=False, num_classes=classes, in_chans=channels, **fixed
    )
    return net


def _torchvision(model: str, classes: int, input_shape: Shape) -> nn.Module:
    models = _imported("torchvision").models
    known = models.list_models(module=models)  # those that classify
    if model not in known:
        raise _unknown("torchvision", model, known)
    net: nn.Module = models.get_model(model, weights=None, num_classes=classes)
    if input_shape[0] != 3:
        _take_channels(net, input_shape[0], model)
    return net


LIBRARIES: dict[str, Callable[[str, int, Shape], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}


def _imported(library: str) -> Any:
    try:
        if library == "timm":
            import timm

            return timm
        import torchvision

        return torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ConfigError(
            f"nets of {library} need the extra 'vision': pip install 'eaves[vision]', with a "
            f"torchvision that fits torch {torch.__version__}; importing {library} failed with "
            f"{type(error).__name__}: {error}"
        ) from error


def _unknown(library: str, model: str, known: Collection[str]) -> ConfigError:
    likely = closest_first(model, known)[:_SHOWN]
    return unknown(f"net of {library}", model, likely)


def _take_channels(net: nn.Module, channels: int, model: str) -> None:
    """Give the first convolution ``channels`` in place of 3; torchvision has no argument for it."""
    first = next((part for part in net.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise ConfigError(
            f"torchvision:{model} takes images of 3 channels only, got {channels}; use timm:NAME, "
            "whose nets take any number, or a net of ours"
        )
    first.in_channels = channels
    first.weight = nn.Parameter(
        first.weight.new_empty(len(first.weight), channels, *first.kernel_size)
    )
    first.reset_parameters()
