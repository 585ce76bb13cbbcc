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
from eaves.codecs.payload import Payload
from eaves.core.roles import CloudLearner, CloudPredictor
from eaves.errors import PayloadError
from eaves.network.lessons import Lessons
from eaves.network.policy import TrainingPolicy

_EXACT: Final = parse_codec("fp32")  # logits are few
_HELLO_BYTES: Final = 2**20
_FILE_BYTES: Final = 1024  # of an image file around its pixels
_RANGE_BYTES: Final = 8  # of a quantiser for each channel
_LARGEST: Final = 1e9  # of a feature: the running variance of a layer is not to overflow for ever


@final
@dataclass(frozen=True, kw_only=True)
class Accepts:
    """What a cloud half takes: features (B, *feature_shape), labels below ``classes``."""

    feature_shape: tuple[int, ...]
    dtype: torch.dtype
    classes: int
    max_batch: int = 4096
    """Examples of one upload."""
    query_batch: int = 0
    """Examples of one query; 0: as many as those of an upload."""
    codec: str = ""
    """That both sides were given, by its canonical name; empty: any."""

    @property
    def limit_bytes(self) -> int:
        """The largest tensor that may be decoded."""
        each = prod(self.feature_shape) * self.dtype.itemsize
        return min(LIMIT_BYTES, max(self.max_batch, self.query_batch) * each)

    def expect(self, payload: Payload, *, most: int = 0) -> None:
        """Compare what a payload says of itself with what was agreed, before it is decoded.

        Raises:
            PayloadError: another codec or shape, or more examples than ``most`` (0: those
                of an upload).
        """
        if self.codec and payload.codec != self.codec:
            raise PayloadError(
                f"expected a payload of codec '{self.codec}', got one of '{payload.codec[:80]}'; "
                "configure the same codec on both sides"
            )
        batch, *shape = payload.layout.shape
        if tuple(shape) != self.feature_shape:
            raise PayloadError(
                f"expected {self.dtype} features of shape (B, {_comma(self.feature_shape)}), "
                f"got some of shape ({_comma(payload.layout.shape)})"
            )
        if batch > (most := most or self.max_batch):
            raise PayloadError(
                f"{batch} examples at once are above the limit of {most}; give both sides the same "
                "batch size, or send smaller batches"
            )

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


def largest_message(codec: Codec, accepts: Accepts) -> int:
    """Return the bytes that no message of an edge exceeds which this half takes.

    A hello and its terms need some; a stage that compresses can make what is incompressible a
    little longer, and an image file may be larger than its pixels.
    """
    batch = max(accepts.max_batch, accepts.query_batch)
    values = batch * prod(accepts.feature_shape)
    widest = 4 if accepts.dtype.is_floating_point else 2  # bytes of a value
    if codec.tensor_stage.name.startswith("int"):
        widest = 1
    elif codec.tensor_stage.name in ("fp16", "bf16"):
        widest = 2
    around = batch * (8 + _FILE_BYTES) + _RANGE_BYTES * max(accepts.feature_shape)
    return _HELLO_BYTES + around + int(values * widest * 1.05)


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
