"""Features and labels of one batch as one message.

::

    offset  bytes   little-endian
    0       4       "EAVU"
    4       1       version, 1
    5       1       bytes per label W: 1, 2, 4 or 8
    6       4       number of labels B (uint32)
    10      B*W     labels, unsigned
    ...     4       CRC-32 (zlib) of all before
    ...     to end  payload of the features, with its own checksum

Dimension key:  B batch
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eaves.codecs.base import LIMIT_BYTES, Codec, decode
from eaves.codecs.contract import Buffer
from eaves.codecs.payload import Payload
from eaves.errors import PayloadError

_MAGIC, _VERSION = b"EAVU", 1
_HEAD = struct.Struct("<4sBBI")
_CRC = struct.Struct("<I")
_WIDTHS = (1, 2, 4, 8)


def pack_upload(features: Tensor, labels: Tensor, codec: Codec) -> bytes:
    """Return features (B, ...) and labels int64 (B,) of 0 or more as one message.

    Labels take the smallest unsigned type that holds the largest of them.

    Raises:
        ValueError: labels of another shape, dtype or sign, or features the codec refuses.
    """
    if labels.dtype != torch.int64 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected int64 labels of shape {tuple(features.shape[:1])} for features of shape "
            f"{tuple(features.shape)}, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    payload = codec.parts(features)  # first: it refuses an empty batch
    values_B = labels.detach().cpu().numpy()
    if (smallest := int(values_B.min())) < 0:
        raise ValueError(f"expected labels of 0 or more, got {smallest}; drop unlabelled examples")
    width = np.min_scalar_type(values_B.max()).itemsize
    head = (
        _HEAD.pack(_MAGIC, _VERSION, width, values_B.size) + values_B.astype(f"<u{width}").tobytes()
    )
    return b"".join((head, _CRC.pack(zlib.crc32(head)), *payload))


def checksums(data: Buffer) -> tuple[int, int]:
    """Return the checksums that a message holds, of its labels and of its features.

    They say which message it is; that they fit is for :func:`expect_whole`.

    Raises:
        PayloadError: it is no message, or cut in its labels.
    """
    data = memoryview(data).cast("B")
    end = _labels_end(data)
    return _CRC.unpack_from(data, end)[0], _CRC.unpack_from(data, len(data) - _CRC.size)[0]


def expect_whole(data: Buffer) -> None:
    """Raise a :class:`PayloadError` where a message has changed; it is not decoded."""
    data = memoryview(data).cast("B")
    of_labels, of_features = checksums(data)
    end = _labels_end(data)
    start, stop = end + _CRC.size, len(data) - _CRC.size
    if zlib.crc32(data[:end]) != of_labels or zlib.crc32(data[start:stop]) != of_features:
        raise PayloadError("a checksum does not fit; send the upload again")


def unpack_upload(
    data: Buffer,
    *,
    limit_bytes: int = LIMIT_BYTES,
    expect: Callable[[Payload], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the features and labels (int64) of a message; ``limit_bytes`` bounds the features.

    ``expect`` may refuse the features by what their payload says of itself, before it is decoded.

    Raises:
        PayloadError: damaged, larger than ``limit_bytes``, or not as many labels as features.

    >>> from eaves.codecs.base import parse_codec
    >>> message = pack_upload(torch.zeros(2, 8), torch.tensor([3, 260]), parse_codec("int8"))
    >>> unpack_upload(message)[1]
    tensor([  3, 260])
    """
    data = memoryview(data).cast("B")
    end = _labels_end(data)
    _, _, width, count = _HEAD.unpack_from(data)
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise PayloadError("the checksum of the labels does not fit; send the upload again")

    def expect_all(payload: Payload) -> None:
        if payload.layout.shape[0] != count:
            raise PayloadError(
                f"expected {payload.layout.shape[0]} labels, one per example, got {count}"
            )
        if expect is not None:
            expect(payload)

    features = decode(data[end + _CRC.size :], limit_bytes=limit_bytes, expect=expect_all)
    values_B = np.frombuffer(data[_HEAD.size : end], f"<u{width}")
    if values_B.max() > np.iinfo(np.int64).max:
        raise PayloadError(f"expected labels below 2^63, got {values_B.max()}")
    return features, torch.from_numpy(values_B.astype(np.int64))


def _labels_end(data: memoryview) -> int:
    """Return where the labels of a message end, before their checksum."""
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise PayloadError(
            f"expected an upload beginning with {_MAGIC!r}, got {len(data)} bytes beginning with "
            f"{bytes(data[:4])!r}; is the sender an Eaves edge?"
        )
    _, version, width, count = _HEAD.unpack_from(data)
    if version != _VERSION or width not in _WIDTHS:
        raise PayloadError(
            f"expected an upload of version {_VERSION} with labels of 1, 2, 4 or 8 bytes, got "
            f"version {version} with {width}; install the same Eaves on both sides"
        )
    end = _HEAD.size + count * width
    if len(data) < end + _CRC.size:
        raise PayloadError(f"an upload of {len(data)} bytes is cut in its {count} labels")
    return int(end)
