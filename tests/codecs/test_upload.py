"""Features and labels in one message."""

import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.codecs.base import parse_codec
from eaves.codecs.upload import checksums, expect_whole, pack_upload, unpack_upload
from eaves.errors import PayloadError

CODEC = parse_codec("int8+zstd")


def message(labels: list[int]) -> bytes:
    return pack_upload(torch.ones(len(labels), 3), torch.tensor(labels), CODEC)


def forged(head: bytes, labels: bytes, batch: int) -> bytes:
    """Return a message with right checksums and whatever else is asked for."""
    start = b"EAVU" + head + labels
    return start + struct.pack("<I", zlib.crc32(start)) + CODEC.encode(torch.ones(batch, 3))


@settings(deadline=None, max_examples=50)
@given(labels=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
def test_features_and_labels_come_back(labels: list[int]) -> None:
    features, decoded = unpack_upload(message(labels))
    assert decoded.dtype == torch.int64
    assert decoded.tolist() == labels
    assert torch.equal(features, torch.ones(len(labels), 3))


@pytest.mark.parametrize(
    ("largest", "width"),
    [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (2**32 - 1, 4), (2**32, 8)],
)
def test_labels_take_the_smallest_type_that_holds_them(largest: int, width: int) -> None:
    two, one = message([0, largest]), message([largest])
    alone = len(CODEC.encode(torch.ones(2, 3)))
    assert len(two) == alone + 14 + 2 * width
    assert two[5] == one[5] == width


def test_inputs_may_be_sent_too() -> None:
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    decoded, _ = unpack_upload(pack_upload(images, torch.tensor([0, 1]), parse_codec("png")))
    assert torch.equal(decoded, images)


@pytest.mark.parametrize(
    ("features", "labels", "error"),
    [
        (torch.ones(2, 3), torch.tensor([1]), r"expected int64 labels of shape \(2,\)"),
        (torch.ones(2, 3), torch.tensor([[1], [2]]), r"got torch.int64 of shape \(2, 1\)"),
        (torch.ones(2, 3), torch.tensor([1.0, 2.0]), r"got torch.float32"),
        (torch.ones(2, 3), torch.tensor([1, -1]), r"labels of 0 or more, got -1"),
        (torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), r"at least one element"),
        (torch.tensor(1.0), torch.tensor(1), r"expected 1 to 8 dimensions"),
    ],
)
def test_what_cannot_be_sent_is_refused(features: Tensor, labels: Tensor, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        pack_upload(features, labels, CODEC)


def test_damage_is_noticed_wherever_it_is() -> None:
    data = message([1, 300, 7])
    for length in range(len(data)):
        with pytest.raises(PayloadError):
            unpack_upload(data[:length])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            unpack_upload(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (forged(b"\1\1\2\0\0\0", b"\1\2", 3), r"expected 3 labels, one per example, got 2"),
        (forged(b"\2\1\2\0\0\0", b"\1\2", 2), r"of version 1 .* got version 2"),
        (forged(b"\1\3\1\0\0\0", b"\1\2\3", 1), r"labels of 1, 2, 4 or 8 bytes, .* with 3"),
        (forged(b"\1\1\xff\xff\xff\xff", b"", 1), r"is cut in its 4294967295 labels"),
        (forged(b"\1\x08\1\0\0\0", b"\xff" * 8, 1), r"labels below 2\^63"),
        (forged(b"\1\1\0\0\0\0", b"", 1), r"expected 1 labels, one per example, got 0"),
        (b"EAVP" + bytes(40), r"beginning with b'EAVU'"),
    ],
)
def test_a_crafted_message_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(PayloadError, match=error):
        unpack_upload(data)


def test_the_limit_reaches_the_features() -> None:
    with pytest.raises(PayloadError, match="above the limit of 11"):
        unpack_upload(message([1]), limit_bytes=11)
    assert unpack_upload(message([1]), limit_bytes=12)[1].tolist() == [1]


@given(data=st.binary(max_size=60), magic=st.booleans())
def test_random_bytes_are_refused(data: bytes, magic: bool) -> None:
    with pytest.raises(PayloadError):
        unpack_upload((b"EAVU" if magic else b"") + data)


def test_checksums_tell_messages_apart_and_whole_ones_fit() -> None:
    one, other_labels = message([1, 2, 3]), message([1, 2, 4])
    other_features = pack_upload(torch.zeros(3, 3), torch.tensor([1, 2, 3]), CODEC)
    assert len({checksums(m) for m in (one, other_labels, other_features)}) == 3
    expect_whole(one)
    for bit in range(8 * len(one)):
        damaged = bytearray(one)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            expect_whole(bytes(damaged))
    with pytest.raises(PayloadError, match="cut in its 3 labels"):
        checksums(one[:12])
