"""Exit heads on the edge part, and the rules that decide whether an early answer is final.

Dimension key:  B batch   C channels   H, W height and width   K classes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import ClassVar, final

from torch import Tensor, nn

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


@final
@dataclass(frozen=True, kw_only=True)
class ConfidenceAbove:
    """Accept an early answer when its top softmax probability exceeds ``threshold``.

    >>> import torch
    >>> ConfidenceAbove(threshold=0.9).accepts(torch.tensor([[0.0, 5.0], [0.0, 1.0]])).tolist()
    [True, False]
    """

    surest_is_high: ClassVar[bool] = True

    threshold: float

    def __post_init__(self) -> None:
        _expect_share(self.threshold)

    @staticmethod
    def scores(logits_BK: Tensor) -> Tensor:
        """Return what the threshold is compared with, (B,): float64, in [0, 1].

        In float32, answers that a net is sure of could no longer be told apart: all are 1.0.
        """
        return logits_BK.double().softmax(dim=1).amax(dim=1)

    def takes(self, scores_B: Tensor) -> Tensor:
        """Return a bool mask (B,): True where an answer of this score is final."""
        return scores_B > self.threshold

    def accepts(self, logits_BK: Tensor) -> Tensor:
        """Return a bool mask (B,): True where the example stays on the edge."""
        return self.takes(self.scores(logits_BK))


@final
@dataclass(frozen=True, kw_only=True)
class EntropyBelow:
    """Accept an early answer when its entropy, as a share of log K, is below ``threshold``.

    Source: BranchyNet (Teerapittayanon et al. 2016), section III-C; there in nats.

    >>> import torch
    >>> EntropyBelow(threshold=0.5).accepts(torch.tensor([[0.0, 5.0], [0.0, 1.0]])).tolist()
    [True, False]
    """

    surest_is_high: ClassVar[bool] = False

    threshold: float

    def __post_init__(self) -> None:
        _expect_share(self.threshold)

    @staticmethod
    def scores(logits_BK: Tensor) -> Tensor:
        """Return what the threshold is compared with, (B,): float64, in [0, 1]."""
        if logits_BK.shape[1] < 2:
            raise ValueError(f"expected 2 classes or more, got {logits_BK.shape[1]}")
        logp_BK = logits_BK.double().log_softmax(dim=1)
        entropy_B = -(logp_BK.exp() * logp_BK).sum(dim=1)
        # Rounding may lift the entropy of equal logits above log K.
        return (entropy_B / log(logits_BK.shape[1])).clamp(0, 1)

    def takes(self, scores_B: Tensor) -> Tensor:
        """Return a bool mask (B,): True where an answer of this score is final."""
        return scores_B < self.threshold

    def accepts(self, logits_BK: Tensor) -> Tensor:
        """Return a bool mask (B,): True where the example stays on the edge."""
        return self.takes(self.scores(logits_BK))


ExitRule = ConfidenceAbove | EntropyBelow
RULES: dict[str, type[ConfidenceAbove] | type[EntropyBelow]] = {
    "confidence": ConfidenceAbove,
    "entropy": EntropyBelow,
}


def _expect_share(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected threshold in [0, 1], got {threshold}")
