"""Affine quantisation to 8, 4, 2 or 1 bits, packed.

Source: Jacob et al., *Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference* (2018), equation 1, with a float offset in place of the integer
zero point: after a ReLU the smallest value is 0, so zeros stay exactly zero.

``int8`` and ``int4`` have one range for the tensor, ``int2`` and ``int1`` one per channel (dim 1);
``intN:tensor`` and ``intN:channel`` say which. At 8 and 4 bits one step for all is the better half
of a chain: before an entropy coder it is what rate-distortion theory asks for (Gish and Pierce,
*Asymptotically Efficient Quantizing*, 1968), and a query of one example does not drown in ranges.
That theory is of small steps. With 4 or 2 levels in all, channels that a common step would round
to nothing need steps of their own.

``benchmarks/requantise.py`` measures both on a trained net; docs/reproduction.md has the figures.

Dimension key:  C channels (1 where the range is one for the tensor)   P positions
                R rows   L row length   N all elements, in memory order
"""

import struct
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eaves.codecs.contract import Buffer, Layout, TensorStage, expect_bytes, require_finite
from eaves.errors import PayloadError, unknown

_LARGEST = 1e38  # of an element, so that hi - lo, and what rounding adds to it, stay float32
_LARGEST_SPAN = 2.1e38
_TINY = float(torch.finfo(torch.float32).tiny)  # below it some processors flush to zero
# What a bare intN has one range for; the module's docstring says why.
_DEFAULTS = {8: "tensor", 4: "tensor", 2: "channel", 1: "channel"}
_OPTIONS = ("tensor", "channel")
_ZERO_LO = 1  # flag: every lo is 0 and is left out, which saves a tenth of an int1 payload

# Neighbours share a byte. The values lie one to a byte in a word of 8/bits bytes; each shift folds
# the upper half of a group onto the lower. Unpacking runs backwards, and masks what is not its own.
_FOLDS: dict[int, tuple[tuple[int, int], ...]] = {
    8: (),
    4: ((4, 0x0F0F),),
    2: ((6, 0x03030303), (12, 0x000F000F)),
    1: ((7, 0x0101010101010101), (14, 0x0003000300030003), (28, 0x0000000F0000000F)),
}


def pack(q_N: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return ``bits``-bit values, one to a byte and in number a multiple of 8/bits, densely.

    The first of neighbours takes the lowest bits.

    >>> [hex(byte) for byte in pack(np.array([1, 2, 3, 4], np.uint8), 4)]
    ['0x21', '0x43']
    """
    words = q_N.view(f"<u{8 // bits}")
    for shift, _ in _FOLDS[bits]:
        words = words | words >> shift
    return words.astype(np.uint8, copy=False)


def unpack(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Undo :func:`pack`.

    >>> unpack(np.array([0x21, 0x43], np.uint8), 4).tolist()
    [1, 2, 3, 4]
    """
    words = packed.astype(f"<u{8 // bits}", copy=False)
    for shift, mask in reversed(_FOLDS[bits]):
        words = (words | words << shift) & mask
    return words.view(np.uint8)


@final
class Affine(TensorStage):
    """q = round((x - lo) / scale), scale = (hi - lo) / (2^bits - 1); decodes to q * scale + lo.

    ``lo`` and ``hi`` are the extremes of the whole tensor where ``range_of`` is ``tensor``, those
    of each channel (dim 1) over batch and positions where it is ``channel``. They travel as
    float32: 4 bytes a range after a ReLU, else 8. For a single example of 256x2x2 one range per
    channel takes as many bytes as its 1024 elements in 8 bits, or twice as many.

    Guaranteed: the error is at most scale/2, and float32 rounding on top; what is constant over a
    range is exact (a span below 3e-36 at 8 bits counts as constant); zeros stay zero where lo is
    0; decoding is two separate float32 operations, the same bits everywhere.
    """

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, bits: int, range_of: str):
        self.name = f"int{bits}" + ("" if range_of == _DEFAULTS[bits] else f":{range_of}")
        self._bits, self._levels = bits, 2**bits - 1
        self._per_tensor = range_of == "tensor"

    def encode(self, x: Tensor, layout: Layout) -> tuple[bytes, Buffer]:
        """Quantise and pack; parameters are a flag, every lo unless all are 0, every scale."""
        # Ranges are those of this batch and travel with it. So payloads may be lost, stored, or
        # learnt from in another order.
        if not self._per_tensor and len(layout.shape) < 2:
            raise ValueError(
                f"'{self.name}' has one range per channel (dim 1), got shape {layout.shape}; "
                f"use 'int{self._bits}:tensor'"
            )
        rows_RL = self._rows(layout, layout.flat(x).float())
        lo_C, scale_C = self._ranges(layout, rows_RL)
        sloped = scale_C > 0
        inverse_C = torch.where(sloped, 1 / torch.where(sloped, scale_C, 1), 0)
        shifted = bool(lo_C.any())
        if shifted:
            rows_RL = rows_RL - self._columns(layout, lo_C)
        # Truncating v + 0.5 rounds to nearest, in range without a clamp: 0 <= v < 2^bits - 0.5.
        v_RL = rows_RL.mul(self._columns(layout, inverse_C)).add_(0.5)
        padded = -(-layout.elements * self._bits // 8) * (8 // self._bits)
        q_N = np.empty(padded, np.uint8)
        q_N[layout.elements :] = 0
        np.copyto(q_N[: layout.elements], v_RL.view(-1).numpy(), casting="unsafe")
        parts = (lo_C, scale_C) if shifted else (scale_C,)
        ranges = b"".join(part.numpy().astype("<f4", copy=False).tobytes() for part in parts)
        return struct.pack("B", 0 if shifted else _ZERO_LO) + ranges, pack(q_N, self._bits).data

    def body_bytes(self, layout: Layout, params: Buffer) -> int:
        """Return the packed length; ``PayloadError`` for ranges that are no finite numbers."""
        lo_C, scale_C = self._read(layout, params)
        # Bounded one by one, as the encoder bounds lo and hi: no sum of them can overflow. NaN
        # makes each extreme NaN, and no comparison with NaN is true.
        if not (
            np.abs(lo_C).max() <= _LARGEST
            and scale_C.min() >= 0
            and scale_C.max() <= _LARGEST_SPAN / self._levels
        ):
            raise PayloadError(f"expected finite ranges in an '{self.name}' payload, got others")
        return -(-layout.elements * self._bits // 8)

    def decode(self, layout: Layout, params: Buffer, body: Buffer) -> Tensor:
        """Unpack, scale and shift: float32."""
        lo_C, scale_C = (torch.from_numpy(part) for part in self._read(layout, params))
        flat_N = np.empty(layout.elements, np.float32)
        np.copyto(flat_N, unpack(np.frombuffer(body, np.uint8), self._bits)[: layout.elements])
        rows_RL = self._rows(layout, torch.from_numpy(flat_N))
        # Not addcmul: it may fuse the two roundings into one, and other machines would differ.
        rows_RL.mul_(self._columns(layout, scale_C))
        if lo_C.any():
            rows_RL.add_(self._columns(layout, lo_C))
        return layout.restored(rows_RL.view(-1))

    def _rows(self, layout: Layout, flat_N: Tensor) -> Tensor:
        # Not one row: torch reduces a column in an eighth of the time.
        return flat_N.view(-1, 1) if self._per_tensor else layout.rows(flat_N)

    def _channels(self, layout: Layout) -> int:
        return 1 if self._per_tensor else layout.shape[1]

    def _columns(self, layout: Layout, v_C: Tensor) -> Tensor:
        """Spread one value per channel over the columns of :meth:`_rows`: (C,) -> (L,)."""
        if self._per_tensor or layout.channels_last:
            return v_C
        positions = layout.elements // (layout.shape[0] * v_C.numel())
        return v_C.repeat_interleave(positions) if positions > 1 else v_C

    def _ranges(self, layout: Layout, rows_RL: Tensor) -> tuple[Tensor, Tensor]:
        channels = self._channels(layout)
        lo_C = rows_RL.amin(0).view(channels, -1).amin(1)
        hi_C = rows_RL.amax(0).view(channels, -1).amax(1)
        require_finite((lo_C.amin().item(), hi_C.amax().item()), _LARGEST, self.name)
        scale_C = (hi_C - lo_C) / self._levels
        return lo_C, torch.where(scale_C < _TINY, 0, scale_C)

    def _read(
        self, layout: Layout, params: Buffer
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if not self._per_tensor and len(layout.shape) < 2:
            raise PayloadError(f"expected 2 dimensions or more in '{self.name}', got {layout}")
        channels = self._channels(layout)
        zero_lo = params[:1] == bytes([_ZERO_LO])
        if not zero_lo and params[:1] != b"\0":
            raise PayloadError(f"expected a flag of 0 or 1 in '{self.name}', got another")
        expect_bytes("ranges", len(params) - 1, channels * (4 if zero_lo else 8))
        read = np.frombuffer(params[1:], "<f4").astype(np.float32)
        return (np.zeros_like(read) if zero_lo else read[:channels]), read[-channels:]


def affine(bits: int, option: str | None) -> Affine:
    """Return the stage ``int<bits>``, with the range that ``option`` asks for, or its default.

    >>> affine(8, "tensor").name, affine(8, "channel").name, affine(2, "channel").name
    ('int8', 'int8:channel', 'int2')
    """
    range_of = _DEFAULTS[bits] if option is None else option
    if range_of not in _OPTIONS:
        raise unknown(f"option of int{bits}", range_of, _OPTIONS)
    return Affine(bits, range_of)
