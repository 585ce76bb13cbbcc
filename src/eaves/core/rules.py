"""The rules that decide whether an early answer is final. Imports no torch.

Dimension key:  B batch   K classes
"""

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, ClassVar, final

if TYPE_CHECKING:  # a device without torch knows the same rules (eaves.light)
    from torch import Tensor


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
    def scores(logits_BK: "Tensor") -> "Tensor":
        """Return what the threshold is compared with, (B,): float64, in [0, 1].

        In float32, answers that a net is sure of could no longer be told apart: all are 1.0.
        """
        return logits_BK.double().softmax(dim=1).amax(dim=1)

    def takes(self, scores_B: "Tensor") -> "Tensor":
        """Return a bool mask (B,): True where an answer of this score is final."""
        return scores_B > self.threshold

    def accepts(self, logits_BK: "Tensor") -> "Tensor":
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
    def scores(logits_BK: "Tensor") -> "Tensor":
        """Return what the threshold is compared with, (B,): float64, in [0, 1]."""
        if logits_BK.shape[1] < 2:
            raise ValueError(f"expected 2 classes or more, got {logits_BK.shape[1]}")
        logp_BK = logits_BK.double().log_softmax(dim=1)
        entropy_B = -(logp_BK.exp() * logp_BK).sum(dim=1)
        # Rounding may lift the entropy of equal logits above log K.
        return (entropy_B / log(logits_BK.shape[1])).clamp(0, 1)

    def takes(self, scores_B: "Tensor") -> "Tensor":
        """Return a bool mask (B,): True where an answer of this score is final."""
        return scores_B < self.threshold

    def accepts(self, logits_BK: "Tensor") -> "Tensor":
        """Return a bool mask (B,): True where the example stays on the edge."""
        return self.takes(self.scores(logits_BK))


ExitRule = ConfidenceAbove | EntropyBelow
RULES: dict[str, type[ConfidenceAbove] | type[EntropyBelow]] = {
    "confidence": ConfidenceAbove,
    "entropy": EntropyBelow,
}


def name_of(rule: ExitRule) -> str:
    """Return the name of a rule in :data:`RULES`.

    >>> name_of(EntropyBelow(threshold=0.5))
    'entropy'
    """
    return next(name for name, kind in RULES.items() if isinstance(rule, kind))


def _expect_share(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected threshold in [0, 1], got {threshold}")
