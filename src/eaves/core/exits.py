"""Exit heads on the edge part.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Callable, Sequence
from math import prod

from torch import nn

from eaves.errors import unknown

_WIDTH = 128  # channels of the convolutional exit, neurons of the MLP


def exit_head(kind: str, feature_shape: Sequence[int], classes: int) -> nn.Module:
    """Return a head that answers early: features (B, ...) -> logits (B, classes).

    ``kind`` is one of :data:`EXITS`. The convolutional one is the default everywhere: a bare pool
    and linear layer on an early cut costs 1-3 points of accuracy.
    """
    if kind not in EXITS:
        raise unknown("exit", kind, EXITS)
    return EXITS[kind](tuple(feature_shape), classes)


def _linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(*_pooled(shape), nn.Linear(shape[0], classes))


def _conv(shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3:
        return _mlp(shape, classes)  # flat features have nothing to convolve
    conv = nn.Conv2d(shape[0], _WIDTH, 3, padding=1, bias=False)
    pool = _pooled((_WIDTH, *shape[1:]))
    return nn.Sequential(conv, nn.BatchNorm2d(_WIDTH), nn.ReLU(), *pool, nn.Linear(_WIDTH, classes))


def _mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    hidden = nn.Linear(prod(shape), _WIDTH)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(_WIDTH, classes))


def _pooled(shape: tuple[int, ...]) -> list[nn.Module]:
    pools: dict[int, Callable[[int], nn.Module]] = {
        2: nn.AdaptiveAvgPool1d,
        3: nn.AdaptiveAvgPool2d,
        4: nn.AdaptiveAvgPool3d,
    }
    return [pools[len(shape)](1), nn.Flatten()] if len(shape) in pools else []


EXITS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "conv": _conv,
    "linear": _linear,
    "mlp": _mlp,
}
