"""Features to payloads without torch, the same bytes as :mod:`eaves.codecs.base` writes.

The envelope and zstd are shared with it. The stages are :class:`eaves.codecs.casts.Cast` and
:class:`eaves.codecs.affine.Affine` of 8 bits in numpy; their docstrings are the specification.

Dimension key:  B batch   C channels (1 where the range is one for the tensor)   P positions
                N all elements
"""

import struct
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Final, final

import numpy as np
import numpy.typing as npt

from eaves.codecs.contract import Buffer, Layout, expect_bytes, require_finite
from eaves.codecs.entropy import Zstd, zstd
from eaves.codecs.payload import Payload
from eaves.errors import PayloadError, unknown
from eaves.network.claims import expect_answer

Features = npt.NDArray[np.float32]

_LARGEST: Final = 1e38  # of an element in 8 bits, and the rest: as codecs/affine.py has it
_LEVELS: Final = 255
_SCALED: Final = "fp16:scaled"
_TINY: Final = np.finfo(np.float32).tiny
_SHIFTED, _ZERO_LO = b"\0", b"\1"


def _fp32(z: Features) -> tuple[bytes, bytes]:
    _expect_within(z, float(np.finfo(np.float32).max), "fp32")
    return b"", z.astype("<f4", copy=False).tobytes()


def _fp16(z: Features) -> tuple[bytes, bytes]:
    _expect_within(z, float(np.finfo(np.float16).max), "fp16")
    words_N = z.astype("<f2").reshape(-1).view("<u2")  # all low bytes, then all high bytes
    return b"", (words_N & 0xFF).astype(np.uint8).tobytes() + (words_N >> 8).astype(
        np.uint8
    ).tobytes()


def _int8(z: Features, *, per_channel: bool) -> tuple[bytes, bytes]:
    name = "int8:channel" if per_channel else "int8"
    _expect_within(z, _LARGEST, name)
    z_BCP = z.reshape(len(z), z.shape[1], -1) if per_channel else z.reshape(1, 1, -1)
    lo_C, hi_C = z_BCP.min(axis=(0, 2)), z_BCP.max(axis=(0, 2))
    scale_C = (hi_C - lo_C) / np.float32(_LEVELS)
    scale_C = np.where(scale_C < _TINY, np.float32(0), scale_C)
    sloped_C = scale_C > 0
    inverse_C = np.where(sloped_C, 1 / np.where(sloped_C, scale_C, np.float32(1)), np.float32(0))
    shifted = bool(lo_C.any())
    if shifted:
        z_BCP = z_BCP - lo_C[:, None]
    # Two roundings, as there; truncating v + 0.5 rounds to nearest, in range without a clamp.
    v_BCP = z_BCP * inverse_C[:, None] + np.float32(0.5)
    parts = (lo_C, scale_C) if shifted else (scale_C,)
    ranges = b"".join(part.astype("<f4", copy=False).tobytes() for part in parts)
    return (_SHIFTED if shifted else _ZERO_LO) + ranges, v_BCP.astype(np.uint8).tobytes()


ENCODERS: Final[dict[str, Callable[[Features], tuple[bytes, bytes]]]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "int8": partial(_int8, per_channel=False),
    "int8:channel": partial(_int8, per_channel=True),
}
"""Tensor stages that a device without torch has; zstd or zstd:LEVEL may follow."""


@final
class LightCodec:
    """Turns float32 features into a payload. Stateless; threads may share it.

    Raises:
        ConfigError: a codec that this device does not have.

    >>> LightCodec("int4+zstd")
    Traceback (most recent call last):
    eaves.errors.ConfigError: unknown codec of a device without torch 'int4+zstd'; choose from: ...
    """

    def __init__(self, name: str):
        stage, *rest = name.split("+")
        option = rest[0].partition(":") if rest else ("zstd", "", "")
        if stage not in ENCODERS or len(rest) > 1 or option[0] != "zstd":
            known = [first + more for first in ENCODERS for more in ("", "+zstd")]
            raise unknown("codec of a device without torch", name, known)
        self.name, self._encode = name, ENCODERS[stage]
        self._zstd: Zstd | None = zstd(option[2] or None) if rest else None

    def encode(self, z: Features) -> bytes:
        """Return the payload of contiguous features (B, ...), 1 to 8 dimensions.

        Raises:
            ValueError: ``z`` is empty, NaN or infinite, or beyond what the codec can hold.
        """
        if z.size == 0:
            raise ValueError(f"expected at least one element, got shape {z.shape}")
        params, body = self._encode(z)
        coded: Buffer = body if self._zstd is None else self._zstd.encode(body)
        return b"".join(Payload(self.name, Layout(z.shape), params, coded).parts())


def decode_floats(data: Buffer, *, shape: tuple[int, ...]) -> Features:
    """Return the float32 tensor of an fp32, fp16 or fp16:scaled payload of this shape.

    Raises:
        PayloadError: damaged, of another codec or shape, or not finite.

    >>> decode_floats(LightCodec("fp16").encode(np.ones((1, 2), np.float32)), shape=(1, 2))
    array([[1., 1.]], dtype=float32)
    """
    codecs = ("fp32", "fp16", _SCALED)
    payload = expect_answer(data, rows=shape[0], values=prod(shape[1:]), codecs=codecs)
    layout = payload.layout
    expect_bytes("parameters", len(payload.params), 1 if payload.codec == _SCALED else 0)
    expect_bytes("body", len(payload.body), layout.elements * (4 if payload.codec == "fp32" else 2))
    found = _from_fp32(payload.body) if payload.codec == "fp32" else _from_fp16(payload.body)
    if payload.codec == _SCALED:
        (exponent,) = struct.unpack("<b", payload.params)
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            found = np.ldexp(found, -exponent)
    if not np.isfinite(found).all():
        raise PayloadError("expected finite logits from the cloud, got NaN or infinity")
    return found.reshape(layout.shape)


def _from_fp32(body: Buffer) -> Features:
    return np.frombuffer(body, "<f4").astype(np.float32)


def _from_fp16(body: Buffer) -> Features:
    planes_2N = np.frombuffer(body, np.uint8).reshape(2, -1).astype(np.uint16)
    words_N: npt.NDArray[np.uint16] = (planes_2N[0] | planes_2N[1] << 8).astype("<u2")
    return words_N.view("<f2").astype(np.float32)


def _expect_within(z: Features, largest: float, codec: str) -> None:
    require_finite((float(z.min()), float(z.max())), largest, codec)
