"""The envelope of a payload: magic, version, layout, codec, parameters, body, checksum.

::

    offset  bytes   little-endian
    0       4       "EAVP"
    4       1       version, 1
    5       1       memory order: 0 contiguous, 1 channels last
    6       1       number of dimensions D, 1 to 8
    7       1       length of the codec's name A, 1 to 64
    8       A       codec's name, ASCII, canonical
    8+A     4*D     shape (uint32), no dimension 0
    ...     4       length of the parameters P (uint32)
    ...     P       parameters of the tensor stage
    ...     to -4   body: what the last byte stage wrote
    -4      4       CRC-32 (zlib) of all before

The CRC finds accidents. It stops no attacker who can compute one, so every field is checked too.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import final

from eaves.codecs.contract import MAX_DIMS, Buffer, Layout
from eaves.errors import PayloadError

_MAGIC, _VERSION = b"EAVP", 1
_FIXED = struct.Struct("<4s4B")
_UINT32 = struct.Struct("<I")
_MAX_NAME = 64
_LAST_IN = (4, 5)  # dimensions of a tensor that may have its channels last


@final
@dataclass(frozen=True, slots=True)
class Payload:
    """A payload taken apart. As read, its envelope is valid; parameters and body may not be."""

    codec: str
    layout: Layout
    params: Buffer
    body: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        """Return the envelope around parameters and body, in pieces that belong together.

        Raises:
            ValueError: a shape too large.
        """
        shape = self.layout.shape
        if max(shape) >= 2**32:
            raise ValueError(f"expected dimensions below 2^32, got shape {shape}")
        name = self.codec.encode("ascii")
        fixed = _FIXED.pack(_MAGIC, _VERSION, self.layout.channels_last, len(shape), len(name))
        sizes = struct.pack(f"<{len(shape)}I", *shape) + _UINT32.pack(len(self.params))
        head = fixed + name + sizes + self.params
        crc = zlib.crc32(self.body, zlib.crc32(head))
        return head, self.body, _UINT32.pack(crc)

    @classmethod
    def from_bytes(cls, data: Buffer) -> "Payload":
        """Take a payload apart without copying it or allocating anything of a declared size.

        Raises:
            PayloadError: it is no payload, damaged, of another version, or a field is out of range.
        """
        data = memoryview(data).cast("B")
        if len(data) < _FIXED.size + 2 * _UINT32.size or data[:4] != _MAGIC:
            raise PayloadError(
                f"expected a payload beginning with {_MAGIC!r}, got {len(data)} bytes beginning "
                f"with {bytes(data[:4])!r}; is the sender an Eaves edge?"
            )
        content = data[: -_UINT32.size]
        if zlib.crc32(content) != _UINT32.unpack(data[-_UINT32.size :])[0]:
            raise PayloadError("the payload's checksum does not fit: damaged or cut; send it again")
        _, version, order, dims, name_bytes = _FIXED.unpack_from(content)
        if version != _VERSION:
            raise PayloadError(
                f"expected a payload of version {_VERSION}, got {version}; "
                "install the same Eaves on both sides"
            )
        if not (1 <= dims <= MAX_DIMS and 1 <= name_bytes <= _MAX_NAME):
            raise PayloadError(f"invalid header: {dims} dimensions, a name of {name_bytes} bytes")
        if order > (dims in _LAST_IN):
            raise PayloadError(f"invalid header: memory order {order} in {dims} dimensions")
        return cls._after_fixed(content, order == 1, dims, name_bytes)

    @staticmethod
    def shape_of(data: Buffer) -> tuple[int, ...]:
        """Return the shape in the envelope of a payload of our own, whose checksum is not read.

        Raises:
            PayloadError: it is no payload.
        """
        try:
            magic, _, _, dims, name_bytes = _FIXED.unpack_from(data)
            shape = struct.unpack_from(f"<{dims}I", data, _FIXED.size + name_bytes)
        except struct.error as error:
            raise PayloadError(f"{len(data)} bytes are no payload") from error
        if magic != _MAGIC or not shape:
            raise PayloadError(f"expected a payload beginning with {_MAGIC!r}, got {magic!r}")
        return shape

    @classmethod
    def _after_fixed(
        cls, content: memoryview, channels_last: bool, dims: int, name_bytes: int
    ) -> "Payload":
        variable = struct.Struct(f"<{name_bytes}s{dims + 1}I")
        start = _FIXED.size + variable.size
        if len(content) < start:
            raise PayloadError(f"expected a header of {start} bytes, got {len(content)}")
        name, *shape, params_bytes = variable.unpack_from(content, _FIXED.size)
        if not (name.isascii() and all(shape)):
            raise PayloadError(f"invalid header: codec {name!r}, shape {tuple(shape)}")
        if params_bytes > len(content) - start:
            raise PayloadError(
                f"expected {params_bytes} bytes of parameters, got {len(content) - start}"
            )
        params = content[start : start + params_bytes]
        body = content[start + params_bytes :]
        return cls(name.decode("ascii"), Layout(tuple(shape), channels_last), params, body)
