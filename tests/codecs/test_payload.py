"""Whatever arrives is a valid tensor within the limit, or a PayloadError; nothing else."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.contract import Layout
from eaves.codecs.payload import Payload
from eaves.errors import PayloadError

LIMIT = 1 << 20
FEATURES = [
    "fp32",
    "fp16",
    "fp16:scaled",
    "bf16+zstd",
    "int8:channel",
    "int8+zstd",
    "int4:channel+range",
]
FEATURES += ["int2:tensor", "int1+zstd:19"]
INPUTS = ["raw", "raw+range+zstd", "png", "png+zstd", "jpeg"]


def example(name: str) -> Tensor:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(5)).relu()
    if parse_codec(name).dtype == torch.uint8:
        x = (x * 60).clamp(0, 255).to(torch.uint8)
    return x.to(memory_format=torch.channels_last)


def sealed(content: bytes) -> bytes:
    """Close ``content`` with a right checksum, as an attacker would."""
    return content + struct.pack("<I", zlib.crc32(content))


def payload(
    codec: str, shape: tuple[int, ...], params: bytes, body: bytes, channels_last: bool = False
) -> bytes:
    return b"".join(Payload(codec, Layout(shape, channels_last), params, body).parts())


def decodes_or_is_refused(data: bytes) -> bool:
    try:
        x = decode(data, limit_bytes=LIMIT)
    except PayloadError:
        return False
    assert x.numel() * x.itemsize <= LIMIT
    assert x.dtype in (torch.float32, torch.uint8)
    assert x.float().isfinite().all()
    return True


@pytest.mark.parametrize("name", FEATURES + INPUTS)
def test_a_cut_payload_is_refused_wherever_it_is_cut(name: str) -> None:
    data = parse_codec(name).encode(example(name))
    assert decodes_or_is_refused(data)
    for length in range(len(data)):
        with pytest.raises(PayloadError):
            decode(data[:length])
    with pytest.raises(PayloadError, match="checksum"):
        decode(data + b"\0")


@pytest.mark.parametrize("name", FEATURES + INPUTS)
def test_every_flipped_bit_is_noticed(name: str) -> None:
    data = bytearray(parse_codec(name).encode(example(name)))
    for bit in range(0, 8 * len(data), 5):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            decode(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


@given(data=st.binary(max_size=100), magic=st.booleans(), seal=st.booleans())
def test_random_bytes_are_refused(data: bytes, magic: bool, seal: bool) -> None:
    data = (b"EAVP" if magic else b"") + data
    with pytest.raises(PayloadError):
        decode(sealed(data) if seal else data)


@pytest.mark.parametrize("name", FEATURES + INPUTS)
def test_damage_under_a_right_checksum_is_refused_or_decodes_within_the_limit(name: str) -> None:
    content = parse_codec(name).encode(example(name))[:-4]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        # Mostly the header and the parameters, where a byte decides about memory.
        reach = len(damaged) if rng.random() < 0.5 else min(90, len(damaged))
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(4, reach))] = int(rng.choice([0, 1, 127, 128, 255, 0x40]))
        refused += not decodes_or_is_refused(sealed(bytes(damaged)))
    assert refused > 20


@settings(deadline=None, max_examples=200)
@given(
    codec=st.sampled_from(
        [*FEATURES, *INPUTS, "int2", "int8", "jpeg:75", "INT8", "zstd", "x" * 64, "é"]
    ),
    order=st.integers(0, 255),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 255, 65_535, 2**31, 2**32 - 1]), max_size=9),
    params=st.one_of(st.binary(max_size=30), st.just(bytes(9)), st.just(b"\1" + bytes(4))),
    params_bytes=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    body=st.one_of(st.binary(max_size=60), st.just(zstandard.compress(bytes(6)))),
)
def test_any_header_is_refused_or_decodes_within_the_limit(
    codec: str, order: int, shape: list[int], params: bytes, params_bytes: int | None, body: bytes
) -> None:
    name = codec.encode()
    content = b"EAVP" + bytes([1, order % 3, len(shape), len(name)]) + name
    content += struct.pack(f"<{len(shape)}I", *shape)
    content += struct.pack("<I", len(params) if params_bytes is None else params_bytes)
    decodes_or_is_refused(sealed(content + params + body))


SIGNALLING_NAN = b"\1\0\x80\x7f"  # numpy warns when it is cast
NAN, INF = np.float32("nan").tobytes(), np.float32("inf").tobytes()
ONE, HUGE = np.float32(1).tobytes(), np.float32(3e38).tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (payload("fp32", (2**32 - 1,) * 8, b"", b""), r"above the limit"),
        (payload("int1:tensor", (2**31, 3), b"\1" + ONE, b""), r"needs 25769803776 bytes"),
        (payload("fp32", (1, 1), b"", NAN), r"expected finite features"),
        (payload("fp32", (1, 1), b"", b"\0" * 3), r"expected 4 bytes of 'fp32' body, got 3"),
        (payload("fp32", (1, 1), b"x", ONE), r"expected 0 bytes of parameters, got 1"),
        (payload("fp16", (1, 1), b"", b"\x00\x7c"), r"expected finite features"),
        (payload("int8", (1, 1), b"\1" + NAN, b"\0"), r"expected finite ranges"),
        (payload("int8", (1, 1), b"\1" + INF, b"\0"), r"expected finite ranges"),
        (payload("int8", (1, 1), b"\1" + SIGNALLING_NAN, b"\0"), r"expected finite ranges"),
        (payload("fp32", (1, 1), b"", SIGNALLING_NAN), r"expected finite features"),
        (payload("int8", (1, 1), b"\1\0\0\x80\xbf", b"\0"), r"expected finite ranges"),
        (payload("int8", (1, 1), b"\1" + HUGE, b"\0"), r"expected finite ranges"),
        (payload("int8", (1, 1), b"\0" + INF + ONE, b"\0"), r"expected finite ranges"),
        (payload("int8", (1, 1), b"\2" + ONE, b"\0"), r"expected a flag of 0 or 1"),
        (payload("int8", (1, 1), b"", b"\0"), r"expected a flag of 0 or 1"),
        (
            payload("int8:channel", (1, 2), b"\1" + ONE, b"\0\0"),
            r"expected 8 bytes of ranges, got 4",
        ),
        (payload("int8:channel", (2,), b"\1" + ONE, b"\0\0"), r"expected 2 dimensions or more"),
        (payload("int4", (3, 1), b"\1" + ONE, b"\0"), r"expected 2 bytes of 'int4'"),
        (payload("raw+zstd", (4,), b"", zstandard.compress(bytes(5))), r"at most 4 bytes"),
        (payload("raw+zstd", (6,), b"", zstandard.compress(bytes(5))), r"expected 6 bytes"),
        (payload("raw+range", (6,), b"", bytes(8)), r"expected 6 bytes of 'raw' body, got 0"),
        (payload("raw+range", (6,), b"", b"\xff" * 8), r"at most 6 range-coded bytes"),
        (payload("raw+range", (6,), b"", bytes(7)), r"is not whole"),
        (payload("INT8", (1, 1), b"\1" + ONE, b"\0"), r"expected codec 'int8' so spelled"),
        (payload("int8:tensor", (1, 1), b"\1" + ONE, b"\0"), r"expected codec 'int8' so spelled"),
        (payload("int2", (2,), b"\1" + ONE, b"\0"), r"expected 2 dimensions or more"),
        (payload("int8", (1, 2), b"\1" + ONE + ONE, b"\0\0"), r"expected 4 bytes of ranges, got 8"),
        (payload("int8+zstd+fp16", (1, 1), b"", b""), r"has 'fp16' where it cannot be"),
        (payload("int7", (1, 1), b"", b""), r"unknown codec stage 'int7'"),
        (payload("png", (1, 2, 4, 4), bytes(4), b""), r"with C 1 or 3"),
        (payload("png", (2, 1, 4, 4), bytes(4), b""), r"expected 8 bytes of file sizes, got 4"),
        (payload("png", (1, 1, 4, 4), b"\1\0\0\0", b""), r"expected 1 bytes of 'png' body"),
        (payload("png", (1, 1, 4, 4), b"\1\0\0\0", b"x"), r"damaged PNG file"),
        (payload("jpeg", (1, 1, 4, 4), bytes(4), b""), r"damaged JPEG file"),
    ],
)
def test_a_crafted_payload_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        decode(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"EAVP\2\0\1\4fp32\1\0\0\0\0\0\0\0", r"of version 1, got 2"),
        (b"EAVP\1\0\0\4fp32\0\0\0\0\0\0\0\0", r"0 dimensions"),
        (b"EAVP\1\0\1\0\1\0\0\0\0\0\0\0", r"a name of 0 bytes"),
        (b"EAVP\1\1\1\4fp32\1\0\0\0\0\0\0\0", r"memory order 1 in 1 dimensions"),
        (b"EAVP\1\2\4\4fp32" + b"\1\0\0\0" * 5, r"memory order 2 in 4 dimensions"),
        (b"EAVP\1\0\1\4fp32\0\0\0\0\0\0\0\0", r"invalid header: codec b'fp32', shape \(0,\)"),
        (b"EAVP\1\0\1\4fp32\1\0\0\0\1\0\0\0", r"expected 1 bytes of parameters, got 0"),
        (b"EAVP\1\0\1\4fp32\1\0\0\0", r"expected a header of 20 bytes, got 16"),
        (b"PNG!" + bytes(30), r"beginning with b'EAVP', got 38 bytes beginning with b'PNG!'"),
    ],
)
def test_a_crafted_header_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        decode(sealed(content))


def picture(mode: str, size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "file", "message"),
    [
        ("png", picture("L", (5, 4), "PNG"), r"expected 4x4 L pixels in a PNG file, got 5x4 L"),
        ("png", picture("RGB", (4, 4), "PNG"), r"got 4x4 RGB"),
        ("png", picture("I;16", (4, 4), "PNG"), r"got 4x4 I;16"),
        ("png", picture("L", (4, 4), "JPEG"), r"damaged PNG file"),
        ("jpeg", picture("L", (3000, 2000), "JPEG"), r"got 3000x2000 L"),
        ("jpeg", picture("L", (4, 4), "JPEG") + b"\xff\xda" * 16, r"at most 16 scans"),
        ("jpeg", picture("L", (4, 4), "JPEG")[:-30], r"damaged JPEG file"),
    ],
)
def test_an_image_file_of_another_kind_or_size_is_refused(
    codec: str, file: bytes, message: str
) -> None:
    data = payload(codec, (1, 1, 4, 4), struct.pack("<I", len(file)), file)
    with pytest.raises(PayloadError, match=message):
        decode(data)


def test_a_png_of_a_billion_pixels_is_refused_unseen() -> None:
    file = bytearray(picture("L", (4, 4), "PNG"))
    file[16:24] = struct.pack(">II", 40_000, 40_000)
    file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    data = payload("png", (1, 1, 4, 4), struct.pack("<I", len(file)), bytes(file))
    with pytest.raises(PayloadError, match=r"damaged PNG file: .* decompression bomb"):
        decode(data)


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        ("fp32+zstd", zstandard.compress(bytes(1 << 26))),
        ("int8+zstd", zstandard.compress(bytes(1 << 26))),
        ("raw+range+zstd", zstandard.compress(b"\xff\xff\xff\3" + bytes(1 << 26))),
        ("raw+range", b"\0\0\0\4" + bytes(8)),
    ],
)
def test_a_bomb_takes_no_memory(codec: str, body: bytes) -> None:
    params = b"\1" + ONE if "int8" in codec else b""
    data = payload(codec, (1, 1 << 26), params, body)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            decode(data, limit_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 2 * LIMIT
    finally:
        tracemalloc.stop()


def test_the_limit_is_on_what_is_decoded() -> None:
    x = torch.zeros(1, 256)
    data = parse_codec("int8+zstd").encode(x)
    assert torch.equal(decode(data, limit_bytes=1024), x)
    assert torch.equal(parse_codec("int8+zstd").decode(data, limit_bytes=1024), x)
    with pytest.raises(PayloadError, match="needs 1024 bytes, above the limit of 1023"):
        decode(data, limit_bytes=1023)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_of_bytes_is_read(kind: type) -> None:
    x = example("int8")
    data = parse_codec("int8+zstd").encode(x)
    assert torch.equal(decode(kind(data)), decode(data))


def test_a_shape_that_does_not_fit_the_header_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dimensions below 2\^32"):
        payload("raw", (2**32,), b"", b"")
