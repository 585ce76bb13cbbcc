"""What a codec is made of: how a tensor lies in memory, tensor stages, byte stages, their options.

Dimension key:  B batch   C channels   P positions (H*W, length...)   R rows   L row length   N all
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, final

from eaves.errors import ConfigError, PayloadError

if TYPE_CHECKING:  # a device without torch writes the same payloads (eaves.light)
    import torch
    from torch import Tensor

Buffer = bytes | memoryview
"""Bytes that need not be copied to be read."""

MAX_DIMS = 8
_LAST_IN = (4, 5)  # dimensions of a tensor that may have its channels last


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """A shape, and whether its elements lie in memory with the channel (dim 1) last."""

    shape: tuple[int, ...]
    channels_last: bool = False

    @classmethod
    def of(cls, x: "Tensor") -> "Layout":
        """Return the layout in which ``x`` is coded: its own if dense, else contiguous.

        >>> import torch
        >>> Layout.of(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
        Layout(shape=(2, 3, 4, 4), channels_last=True)
        """
        if not (1 <= x.dim() <= MAX_DIMS and x.numel()):
            raise ValueError(
                f"expected 1 to {MAX_DIMS} dimensions and at least one element, "
                f"got shape {tuple(x.shape)}"
            )
        last = x.dim() in _LAST_IN and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
        return cls(tuple(x.shape), last)

    def __post_init__(self) -> None:
        if self.channels_last and len(self.shape) not in _LAST_IN:
            raise ValueError(f"expected 4 or 5 dimensions with channels last, got {self.shape}")

    @property
    def elements(self) -> int:
        """Number of elements, exact for any shape."""
        return prod(self.shape)

    def flat(self, x: "Tensor") -> "Tensor":
        """Return the elements (N,) in this memory order, without a copy where ``x`` has it."""
        x = x.detach().cpu()
        # reshape alone may return a view with gaps, as of every second column
        return (x.movedim(1, -1) if self.channels_last else x).reshape(-1).contiguous()

    def restored(self, flat_N: "Tensor") -> "Tensor":
        """Return contiguous ``flat_N``, in this memory order, as a tensor of this shape."""
        if not self.channels_last:
            return flat_N.view(self.shape)
        batch, channels, *spatial = self.shape
        return flat_N.view(batch, *spatial, channels).movedim(-1, 1)

    def rows(self, flat_N: "Tensor") -> "Tensor":
        """View ``flat_N`` as (R, L), where a column belongs to one channel.

        L is C with channels last, else C*P. Reductions over R and arithmetic with a vector of
        length L are then plain loops over memory, whatever the order.
        """
        channels = self.shape[1]
        return flat_N.view(-1, channels if self.channels_last else prod(self.shape[1:]))


class TensorStage(ABC):
    """The first stage of a chain: a tensor to parameters and a body of bytes, and back.

    Stages are stateless and may be shared by threads.
    """

    dtype: "ClassVar[torch.dtype]"
    """What :meth:`decode` returns: float32 for features, uint8 for inputs."""
    name: str
    """Canonical text, option included."""

    @abstractmethod
    def encode(self, x: "Tensor", layout: Layout) -> tuple[bytes, Buffer]:
        """Return parameters and body; raises ``ValueError`` for a tensor it cannot carry."""

    @abstractmethod
    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return the exact length of the body; raises ``PayloadError`` for invalid parameters."""

    @abstractmethod
    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> "Tensor":
        """Return a new tensor; parameters and the body's length are already checked."""


class ByteStage(ABC):
    """A later stage of a chain: bytes to fewer bytes, without loss. May be shared by threads."""

    name: str
    """Canonical text, option included."""

    @abstractmethod
    def encode(self, data: Buffer) -> bytes:
        """Return ``data`` compressed."""

    @abstractmethod
    def decode(self, data: Buffer, limit_bytes: int) -> bytes:
        """Return what was compressed; ``PayloadError`` where damaged or above ``limit_bytes``."""


def no_option(stage: str, option: str | None) -> None:
    """Refuse an option for a stage that takes none."""
    if option is not None:
        raise ConfigError(f"codec stage '{stage}' takes no option, got '{stage}:{option}'")


def integer_option(stage: str, option: str, bounds: tuple[int, int]) -> int:
    """Read the number after the colon, from ``bounds[0]`` to ``bounds[1]``.

    >>> integer_option("zstd", "30", (1, 19))
    Traceback (most recent call last):
    eaves.errors.ConfigError: expected 'zstd:N' with N from 1 to 19, got 'zstd:30'
    """
    low, high = bounds
    digits = option.isascii() and option.isdigit() and len(option) <= 4
    if not (digits and low <= int(option) <= high):
        raise ConfigError(
            f"expected '{stage}:N' with N from {low} to {high}, got '{stage}:{option}'"
        )
    return int(option)


def expect_bytes(what: str, given: int, expected: int) -> None:
    """Raise ``PayloadError`` where a part has not the length that the shape implies."""
    if given != expected:
        raise PayloadError(f"expected {expected} bytes of {what}, got {given}; send it again")


def require_finite(values: Sequence[float], largest: float, codec: str) -> None:
    """Raise ``ValueError`` unless every extreme of a tensor to be sent is within ``largest``."""
    for value in values:
        if not abs(value) <= largest:  # written so that NaN is refused too
            raise ValueError(
                f"expected finite features within ±{largest:g} for codec '{codec}', found {value}; "
                "look for a diverged edge part, or use a codec of wider range"
            )
