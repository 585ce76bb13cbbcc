"""Features as floats of 32 or 16 bits.

The two bytes of a 16-bit float travel apart, all low bytes and then all high bytes: exponents
resemble each other and compress, mantissas do not. On post-ReLU features that makes ``fp16+zstd``
6 % smaller. The same on 32 bits makes zstd worse, so those stay whole.

``fp16:scaled`` is for gradients, most of which are below the 6e-8 at which fp16 ends: the tensor is
multiplied by a power of two that brings its largest magnitude to the upper end of fp16. That loses
nothing, and leaves 39 binary orders of magnitude below the largest value.

Dimension key:  N all elements, in memory order
"""

import struct
from math import frexp, ldexp
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from eaves.codecs.contract import (
    Buffer,
    Layout,
    TensorStage,
    expect_bytes,
    no_option,
    require_finite,
)
from eaves.errors import ConfigError, PayloadError

_EXPONENT = struct.Struct("<b")
_LOWEST, _HIGHEST = -111, 126  # exponents of a scale: what it makes of fp16 is still float32
_LARGEST_SCALED = torch.finfo(torch.float16).max * 2.0**-_LOWEST
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@final
class Cast(TensorStage):
    """Round to the nearest float of the named kind; decodes to float32, exactly those values."""

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, kind: str):
        self.name = kind
        self._to = _DTYPES[kind]

    def encode(self, x: Tensor, layout: Layout) -> tuple[bytes, Buffer]:
        """Round; refuse what would become infinite."""
        flat_N = layout.flat(x)
        require_finite(_extremes(flat_N), torch.finfo(self._to).max, self.name)
        cast_N = flat_N.to(self._to)
        if self._to == torch.float32:
            return b"", cast_N.numpy().astype("<f4", copy=False).data.cast("B")
        return b"", _split(cast_N)

    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return 4 or 2 bytes for each element; there are no parameters."""
        expect_bytes("parameters", len(params), 0)
        return layout.elements * self._to.itemsize

    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> Tensor:
        """Return float32; ``PayloadError`` for NaN and infinity, which no encoder sends."""
        if self._to == torch.float32:
            flat_N = torch.from_numpy(np.frombuffer(body, "<f4").astype(np.float32))
        else:
            flat_N = _joined(body, self._to).float()
        return layout.restored(_finite(flat_N))


@final
class ScaledHalf(TensorStage):
    """Round to fp16 after scaling by a power of two; decodes to float32, scaled back.

    The exponent of the scale is the parameter, one signed byte: 2 bytes a value as ``fp16``, and as
    exact for every value that ``fp16`` holds in its normal range.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    name = "fp16:scaled"

    def encode(self, x: Tensor, layout: Layout) -> tuple[bytes, Buffer]:
        """Scale and round; refuse NaN, infinity, and what is beyond half of float32's range."""
        flat_N = layout.flat(x)
        flat_N = flat_N if flat_N.dtype == torch.float64 else flat_N.float()
        extremes = _extremes(flat_N)
        require_finite(extremes, _LARGEST_SCALED, self.name)
        exponent = scale_exponent(max(map(abs, extremes)))
        return _EXPONENT.pack(exponent), _split((flat_N * ldexp(1.0, exponent)).half())

    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return 2 bytes for each element."""
        self._exponent(params)
        return layout.elements * 2

    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> Tensor:
        """Return float32; ``PayloadError`` for NaN and infinity, which no encoder sends."""
        flat_N = _joined(body, torch.float16).float()
        return layout.restored(_finite(flat_N * ldexp(1.0, -self._exponent(params))))

    def _exponent(self, params: Buffer) -> int:
        expect_bytes("parameters", len(params), _EXPONENT.size)
        return parse_exponent(params)


def scale_exponent(largest: float) -> int:
    """Return the exponent of the power of two that brings ``largest`` to 2^14 up to 2^15.

    >>> scale_exponent(1.0), scale_exponent(0.0), scale_exponent(1e-45)
    (14, 0, 126)
    """
    return min(max(15 - frexp(largest)[1], _LOWEST), _HIGHEST) if largest else 0


def parse_exponent(params: Buffer) -> int:
    """Return the exponent in the parameters of ``fp16:scaled``; raises ``PayloadError``."""
    (exponent,) = _EXPONENT.unpack(params)
    if not _LOWEST <= exponent <= _HIGHEST:
        raise PayloadError(
            f"expected the exponent of a scale from {_LOWEST} to {_HIGHEST}, got {exponent}; send "
            "it again"
        )
    return int(exponent)


def _extremes(flat_N: Tensor) -> tuple[float, float]:
    return flat_N.amin().item(), flat_N.amax().item()


def _split(cast_N: Tensor) -> Buffer:
    """Return the low bytes of 16-bit floats, then their high bytes."""
    words_N = cast_N.view(torch.int16).numpy().view(np.uint16)
    planes_2N = np.empty((2, words_N.size), np.uint8)
    np.copyto(planes_2N[0], words_N, casting="unsafe")
    np.copyto(planes_2N[1], words_N >> 8, casting="unsafe")
    return planes_2N.reshape(-1).data


def _joined(body: Buffer, to: torch.dtype) -> Tensor:
    """Return what :func:`_split` took apart."""
    planes_2N = np.frombuffer(body, np.uint8).reshape(2, -1)
    words_N = planes_2N[1].astype(np.uint16)
    words_N <<= 8
    words_N |= planes_2N[0]
    return torch.from_numpy(words_N.view(np.int16)).view(to)


def _finite(flat_N: Tensor) -> Tensor:
    if not (flat_N.amin().isfinite() and flat_N.amax().isfinite()):
        raise PayloadError("expected finite features, got NaN or infinity in the payload")
    return flat_N


def cast(kind: str, option: str | None) -> TensorStage:
    """Return the stage ``fp32``, ``fp16`` or ``bf16``; ``fp16:scaled`` is the only option."""
    if kind == "fp16" and option is not None:
        if option != "scaled":
            raise ConfigError(f"expected 'fp16' or 'fp16:scaled', got 'fp16:{option}'")
        return ScaledHalf()
    no_option(kind, option)
    return Cast(kind)
