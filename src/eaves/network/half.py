"""The cloud half of a method as the service runs it, and what it can take.

Dimension key:  B batch
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final, final

import torch
from torch import Tensor

from eaves.codecs.base import LIMIT_BYTES, Codec, parse_codec
from eaves.core.roles import CloudLearner, CloudPredictor
from eaves.errors import PayloadError
from eaves.network.lessons import Lessons
from eaves.network.policy import TrainingPolicy

_EXACT: Final = parse_codec("fp32")  # logits are few
_LARGEST: Final = 1e9  # of a feature: the running variance of a layer is not to overflow for ever


@final
@dataclass(frozen=True, kw_only=True)
class Accepts:
    """What a cloud half takes: features (B, *feature_shape), labels below ``classes``."""

    feature_shape: tuple[int, ...]
    dtype: torch.dtype
    classes: int
    max_batch: int = 4096

    @property
    def limit_bytes(self) -> int:
        """The largest tensor that may be decoded."""
        each = prod(self.feature_shape) * self.dtype.itemsize
        return min(LIMIT_BYTES, self.max_batch * each)

    def check(self, features: Tensor, labels_B: Tensor | None = None) -> None:
        """Raise a :class:`PayloadError` for what the cloud half cannot take."""
        if features.dtype != self.dtype or features.shape[1:] != self.feature_shape:
            raise PayloadError(
                f"expected {self.dtype} features of shape (B, {_comma(self.feature_shape)}), "
                f"got {features.dtype} of shape ({_comma(features.shape)})"
            )
        if self.dtype.is_floating_point:
            low, high = features.aminmax()
            if not max(-float(low), float(high)) <= _LARGEST:  # nor is any comparison with NaN true
                raise PayloadError(
                    f"the features are not finite, or beyond ±{_LARGEST:g}: from {low} to {high}"
                )
        if labels_B is not None and int(labels_B.max()) >= self.classes:
            raise PayloadError(f"expected labels below {self.classes}, got {int(labels_B.max())}")


def _comma(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


@final
@dataclass(frozen=True, kw_only=True)
class Half:
    """The cloud half of a method."""

    learner: CloudLearner
    predictor: CloudPredictor
    accepts: Accepts
    reply_codec: Codec
    """Of gradients."""
    answer_codec: Codec = _EXACT
    """Of answers to queries."""
    lessons: Lessons | None = None
    """Where uploads travel once, and are learnt from more often."""
    policy: TrainingPolicy = field(default_factory=TrainingPolicy)
    """How long training is, and what one edge may do to it."""
