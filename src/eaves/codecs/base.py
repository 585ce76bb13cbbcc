"""A codec: one tensor stage, then byte stages, written as ``int8+zstd``.

Features (float tensors) decode to float32, inputs (uint8 images) to uint8. See :data:`CODECS` for
the stages, and :mod:`eaves.codecs.payload` for the bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import final

import torch
from torch import Tensor

from eaves.codecs.affine import affine
from eaves.codecs.casts import cast
from eaves.codecs.contract import Buffer, ByteStage, Layout, TensorStage, expect_bytes
from eaves.codecs.entropy import range_coder, zstd
from eaves.codecs.images import jpeg, png, raw
from eaves.codecs.payload import Payload
from eaves.errors import ConfigError, PayloadError, unknown

LIMIT_BYTES = 256 * 2**20
"""What a decoder allocates at most unless told otherwise: for the tensor, and for each step."""

TENSOR_STAGES: dict[str, Callable[[str | None], TensorStage]] = {
    "fp32": partial(cast, "fp32"),
    "fp16": partial(cast, "fp16"),  # fp16:scaled brings small gradients into its range
    "bf16": partial(cast, "bf16"),
    "int8": partial(affine, 8),  # one range for the tensor; int8:channel has one per channel
    "int4": partial(affine, 4),
    "int2": partial(affine, 2),  # one range per channel; int2:tensor has one for the tensor
    "int1": partial(affine, 1),
    "raw": raw,
    "png": png,
    "jpeg": jpeg,  # jpeg:QUALITY
}
BYTE_STAGES: dict[str, Callable[[str | None], ByteStage]] = {
    "zstd": zstd,  # zstd:LEVEL
    "range": range_coder,
}
CODECS = TENSOR_STAGES | BYTE_STAGES
"""Every stage by its name; each is called with the text after the colon, if any."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@final
@dataclass(frozen=True)
class Codec:
    """Turns a tensor into a self-describing payload and back. Stateless; threads may share it."""

    tensor_stage: TensorStage
    byte_stages: tuple[ByteStage, ...] = ()

    @property
    def name(self) -> str:
        """The canonical text: ``parse_codec(codec.name)`` is this codec."""
        return "+".join([self.tensor_stage.name, *(stage.name for stage in self.byte_stages)])

    @property
    def dtype(self) -> torch.dtype:
        """What :meth:`decode` returns: float32 (a codec for features) or uint8 (for inputs)."""
        return self.tensor_stage.dtype

    def encode(self, x: Tensor) -> bytes:
        """Return the payload of ``x`` (1 to 8 dimensions, on any device, with any strides).

        Dense channels-last memory is coded as it lies, and decodes to the same order.

        Raises:
            ValueError: ``x`` is empty, NaN or infinite, or of a dtype or shape not for this codec.
        """
        return b"".join(self.parts(x))

    def parts(self, x: Tensor) -> tuple[Buffer, ...]:
        """Return the payload of :meth:`encode` in pieces, for those who put more around it."""
        allowed = (torch.uint8,) if self.dtype == torch.uint8 else _FLOATS
        if x.dtype not in allowed:
            raise ValueError(
                f"codec '{self.name}' takes {' or '.join(map(str, allowed))}, got {x.dtype}; "
                "use int8+zstd for float features, raw for uint8 inputs"
            )
        layout = Layout.of(x)
        params, body = self.tensor_stage.encode(x, layout)
        for stage in self.byte_stages:
            body = stage.encode(body)
        return Payload(self.name, layout, params, body).parts()

    def decode(self, data: Buffer, *, limit_bytes: int = LIMIT_BYTES) -> Tensor:
        """Return the tensor that :meth:`encode` was given, as far as the codec keeps it.

        It is new, on the CPU, contiguous or channels last as it was, and requires no grad. Whatever
        ``data`` is, no step allocates more than a small multiple of ``limit_bytes``.

        Raises:
            PayloadError: damaged, written by another codec, or larger than ``limit_bytes``.
        """
        payload = Payload.from_bytes(data)
        if payload.codec != self.name:
            raise PayloadError(
                f"expected a payload of codec '{self.name}', got one of '{payload.codec}'; "
                "configure the same codec on both sides"
            )
        return self._decode(payload, limit_bytes)

    def _decode(self, payload: Payload, limit_bytes: int) -> Tensor:
        layout = payload.layout
        tensor_bytes = layout.elements * self.dtype.itemsize
        if tensor_bytes > limit_bytes:
            raise PayloadError(
                f"a tensor of shape {layout.shape} needs {tensor_bytes} bytes, above the limit of "
                f"{limit_bytes}; send smaller batches or raise the limit"
            )
        body_bytes = self.tensor_stage.body_bytes(layout, payload.params)
        body = payload.body
        for stage in reversed(self.byte_stages):
            first = stage is self.byte_stages[0]
            body = stage.decode(body, min(body_bytes, limit_bytes) if first else limit_bytes)
        expect_bytes(f"'{self.tensor_stage.name}' body", len(body), body_bytes)
        return self.tensor_stage.decode(layout, payload.params, body)


@lru_cache(maxsize=64)
def parse_codec(text: str) -> Codec:
    """Read a chain of stages: a tensor stage, then byte stages, joined by ``+``.

    Raises:
        ConfigError: an unknown stage (the closest names come first), a wrong option or order, or an
            optional package that is missing.

    >>> parse_codec("int8 + zstd").name
    'int8+zstd'
    >>> parse_codec("zstd+int8")
    Traceback (most recent call last):
    eaves.errors.ConfigError: codec 'zstd+int8' starts with 'zstd', which codes bytes; \
start with one of: int8, fp32, fp16, bf16, int4, int2, int1, raw, png, jpeg
    """
    stages = [stage.strip() for stage in text.lower().split("+")]
    parts = [(name, option if colon else None) for name, colon, option in map(_split, stages)]
    names = [name for name, _ in parts]
    for name in names:
        if name not in CODECS:
            raise unknown("codec stage", name, CODECS)
    first, *rest = parts
    if first[0] not in TENSOR_STAGES:
        choices = sorted(TENSOR_STAGES, key=lambda name: name not in names)
        raise ConfigError(
            f"codec '{text}' starts with '{first[0]}', which codes bytes; "
            f"start with one of: {', '.join(choices)}"
        )
    for name, _ in rest:
        if name not in BYTE_STAGES or names.count(name) > 1:
            raise ConfigError(
                f"codec '{text}' has '{name}' where it cannot be; after the tensor stage "
                f"'{first[0]}' come byte stages, each at most once: {', '.join(BYTE_STAGES)}"
            )
    byte_stages = tuple(BYTE_STAGES[name](option) for name, option in rest)
    return Codec(TENSOR_STAGES[first[0]](first[1]), byte_stages)


def _split(stage: str) -> tuple[str, str, str]:
    return stage.partition(":")


def decode(
    data: Buffer,
    *,
    limit_bytes: int = LIMIT_BYTES,
    expect: Callable[[Payload], None] | None = None,
) -> Tensor:
    """Decode any payload with the codec that its header names; see :meth:`Codec.decode`.

    ``expect`` may refuse it by what it says of itself, before anything is decoded.

    Raises:
        PayloadError: damaged, larger than ``limit_bytes``, or of a codec that is not known or not
            installed here.

    >>> decode(parse_codec("fp16").encode(torch.tensor([[0.5, 2.0]])))
    tensor([[0.5000, 2.0000]])
    """
    payload = Payload.from_bytes(data)
    if expect is not None:
        expect(payload)
    try:
        codec = parse_codec(payload.codec)
    except ConfigError as error:
        raise PayloadError(f"a payload of codec '{payload.codec}': {error}") from error
    if codec.name != payload.codec:
        raise PayloadError(f"expected codec '{codec.name}' so spelled, got '{payload.codec}'")
    return codec._decode(payload, limit_bytes)
