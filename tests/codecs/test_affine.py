"""Affine quantisation: bounds, exactness, packing, and the same bits on every machine."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eaves.codecs.affine import pack, unpack
from eaves.codecs.base import parse_codec
from eaves.codecs.payload import Payload

BITS = [8, 4, 2, 1]


@settings(deadline=None, max_examples=200)
@given(
    x=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False),
    ),
    bits=st.sampled_from(BITS),
)
def test_error_is_at_most_half_a_step_at_any_magnitude(x: np.ndarray, bits: int) -> None:
    codec = parse_codec(f"int{bits}")
    y = codec.decode(codec.encode(torch.from_numpy(x))).double().numpy()
    axes = (0, *range(2, x.ndim))
    lo, hi = (f(x, axis=axes, keepdims=True).astype(np.float64) for f in (np.min, np.max))
    scale = (hi - lo) / (2**bits - 1)
    rounding = 2.0**-20 * np.maximum(abs(lo), abs(hi)) + 3.1e-36  # a span below that is constant
    assert (abs(y - x) <= scale * (0.5 + 2.0**-14) + rounding).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tail", ["", ":tensor"])
def test_zeros_after_a_relu_stay_exactly_zero(bits: int, tail: str) -> None:
    x = torch.randn(8, 5, 6, 6, generator=torch.Generator().manual_seed(1)).relu()
    codec = parse_codec(f"int{bits}{tail}")
    y = codec.decode(codec.encode(x))
    assert (y[x == 0] == 0).all()
    assert ((y == 0) >= (x == 0)).all()
    assert y.amin() == 0
    assert y.amax() > 0


@pytest.mark.parametrize("bits", BITS)
def test_constant_channels_are_exact(bits: int) -> None:
    x = torch.tensor([0.1, -3e37, 0.0, 1e-40]).view(1, 4, 1, 1).expand(3, 4, 2, 2)
    codec = parse_codec(f"int{bits}")
    assert torch.equal(codec.decode(codec.encode(x)), x)


def test_the_largest_and_smallest_of_each_channel_are_met() -> None:
    x = torch.randn(64, 7, 3, 3, generator=torch.Generator().manual_seed(2)) * 10 + 3
    codec = parse_codec("int8")
    y = codec.decode(codec.encode(x))
    dims = (0, 2, 3)
    assert torch.equal(y.amin(dims), x.amin(dims))
    torch.testing.assert_close(y.amax(dims), x.amax(dims), rtol=1e-6, atol=1e-5)


def test_decoding_is_a_product_and_a_sum_each_rounded() -> None:
    """A fused multiply-add would round once and differ in the last bit of some elements."""
    x = torch.randn(32, 16, 5, 5, generator=torch.Generator().manual_seed(3))
    codec = parse_codec("int8")
    data = codec.encode(x)
    payload = Payload.from_bytes(data)
    ranges = np.frombuffer(payload.params[1:], "<f4").reshape(2, 16, 1, 1)
    q = np.frombuffer(payload.body, np.uint8).reshape(x.shape).astype(np.float32)
    product = q * ranges[1]
    fused = (q.astype(np.float64) * ranges[1] + ranges[0]).astype(np.float32)
    assert np.array_equal(codec.decode(data).numpy(), product + ranges[0])
    assert not np.array_equal(codec.decode(data).numpy(), fused)


def test_channels_last_costs_and_holds_the_same() -> None:
    x = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(4)).relu()
    codec = parse_codec("int4")
    a = codec.encode(x)
    b = codec.encode(x.to(memory_format=torch.channels_last))
    assert len(a) == len(b)
    assert torch.equal(codec.decode(a), codec.decode(b))


def test_one_range_for_the_tensor_is_smaller() -> None:
    x = torch.rand(1, 512, 2, 2)
    assert len(parse_codec("int8:tensor").encode(x)) < len(parse_codec("int8").encode(x)) - 2000


@given(
    bits=st.sampled_from(BITS),
    data=st.binary(min_size=8, max_size=64).filter(lambda data: len(data) % 8 == 0),
)
def test_packing_is_what_it_says_and_back(bits: int, data: bytes) -> None:
    q = np.frombuffer(data, np.uint8) & (2**bits - 1)
    per = 8 // bits
    naive = [sum(int(q[i + k]) << bits * k for k in range(per)) for i in range(0, q.size, per)]
    assert pack(q, bits).tolist() == naive
    assert unpack(pack(q, bits), bits).tolist() == q.tolist()


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_what_is_sent(bits: int) -> None:
    x = torch.rand(16, 8, 4, 4)
    expected = x.numel() * bits // 8
    assert expected <= len(parse_codec(f"int{bits}").encode(x)) <= expected + 150
