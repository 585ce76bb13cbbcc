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
RANGES = ["tensor", "channel"]
every_bits = pytest.mark.parametrize("bits", BITS)
every_range = pytest.mark.parametrize("range_of", RANGES)


def shared(range_of: str, dims: int) -> tuple[int, ...]:
    """Return the dimensions whose elements share a range."""
    return tuple(range(dims)) if range_of == "tensor" else (0, *range(2, dims))


@pytest.mark.parametrize(
    ("bits", "range_of"), [(8, "tensor"), (4, "tensor"), (2, "channel"), (1, "channel")]
)
def test_a_bare_name_means_the_better_range(bits: int, range_of: str) -> None:
    x = torch.randn(4, 6, 2, 2, generator=torch.Generator().manual_seed(8))
    data = parse_codec(f"int{bits}").encode(x)
    assert data == parse_codec(f"int{bits}:{range_of}").encode(x)
    other = RANGES[range_of == "tensor"]
    assert Payload.from_bytes(data).codec == f"int{bits}"
    assert parse_codec(f"int{bits}:{other}").name == f"int{bits}:{other}"


@every_bits
@pytest.mark.parametrize(("range_of", "ranges"), [("tensor", 1), ("channel", 6)])
@pytest.mark.parametrize("relu", [False, True])
def test_what_travels_besides_is_a_flag_and_the_ranges(
    bits: int, range_of: str, ranges: int, relu: bool
) -> None:
    x = torch.randn(64, 6, 2, 2, generator=torch.Generator().manual_seed(8))
    data = parse_codec(f"int{bits}:{range_of}").encode(x.relu() if relu else x)
    assert len(Payload.from_bytes(data).params) == 1 + ranges * (4 if relu else 8)


@settings(deadline=None, max_examples=200)
@given(
    x=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False),
    ),
    bits=st.sampled_from(BITS),
    range_of=st.sampled_from(RANGES),
)
def test_error_is_at_most_half_a_step_at_any_magnitude(
    x: np.ndarray, bits: int, range_of: str
) -> None:
    codec = parse_codec(f"int{bits}:{range_of}")
    y = codec.decode(codec.encode(torch.from_numpy(x))).double().numpy()
    axes = shared(range_of, x.ndim)
    lo, hi = (f(x, axis=axes, keepdims=True).astype(np.float64) for f in (np.min, np.max))
    scale = (hi - lo) / (2**bits - 1)
    rounding = 2.0**-20 * np.maximum(abs(lo), abs(hi)) + 3.1e-36  # a span below that is constant
    assert (abs(y - x) <= scale * (0.5 + 2.0**-14) + rounding).all()


@every_bits
@every_range
def test_zeros_after_a_relu_stay_exactly_zero(bits: int, range_of: str) -> None:
    x = torch.randn(8, 5, 6, 6, generator=torch.Generator().manual_seed(1)).relu()
    codec = parse_codec(f"int{bits}:{range_of}")
    y = codec.decode(codec.encode(x))
    assert (y[x == 0] == 0).all()
    assert ((y == 0) >= (x == 0)).all()
    assert y.amin() == 0
    assert y.amax() > 0


CONSTANTS = [0.1, -3e37, 0.0, 1e-40]


@every_bits
def test_constant_channels_are_exact(bits: int) -> None:
    x = torch.tensor(CONSTANTS).view(1, 4, 1, 1).expand(3, 4, 2, 2)
    codec = parse_codec(f"int{bits}:channel")
    assert torch.equal(codec.decode(codec.encode(x)), x)


@every_bits
@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_tensor_is_exact(bits: int, constant: float) -> None:
    x = torch.full((3, 4, 2, 2), constant)
    codec = parse_codec(f"int{bits}:tensor")
    assert torch.equal(codec.decode(codec.encode(x)), x)


@every_bits
@every_range
def test_the_largest_and_smallest_of_each_range_are_met(bits: int, range_of: str) -> None:
    x = torch.randn(64, 7, 3, 3, generator=torch.Generator().manual_seed(2)) * 10 + 3
    codec = parse_codec(f"int{bits}:{range_of}")
    y = codec.decode(codec.encode(x))
    dims = shared(range_of, 4)
    assert torch.equal(y.amin(dims), x.amin(dims))
    torch.testing.assert_close(y.amax(dims), x.amax(dims), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("name", "ranges"), [("int8", 1), ("int8:channel", 16)])
def test_decoding_is_a_product_and_a_sum_each_rounded(name: str, ranges: int) -> None:
    """A fused multiply-add would round once and differ in the last bit of some elements."""
    x = torch.randn(32, 16, 5, 5, generator=torch.Generator().manual_seed(3))
    codec = parse_codec(name)
    data = codec.encode(x)
    payload = Payload.from_bytes(data)
    lo, scale = np.frombuffer(payload.params[1:], "<f4").reshape(2, ranges, 1, 1)
    q = np.frombuffer(payload.body, np.uint8).reshape(x.shape).astype(np.float32)
    product = q * scale
    fused = (q.astype(np.float64) * scale + lo).astype(np.float32)
    assert np.array_equal(codec.decode(data).numpy(), product + lo)
    assert not np.array_equal(codec.decode(data).numpy(), fused)


@every_bits
@every_range
def test_channels_last_costs_and_holds_the_same(bits: int, range_of: str) -> None:
    x = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(4)).relu()
    codec = parse_codec(f"int{bits}:{range_of}")
    a = codec.encode(x)
    b = codec.encode(x.to(memory_format=torch.channels_last))
    assert len(a) == len(b)
    assert torch.equal(codec.decode(a), codec.decode(b))


@every_bits
def test_one_range_for_the_tensor_is_smaller(bits: int) -> None:
    x = torch.rand(1, 512, 2, 2)
    whole, each = (parse_codec(f"int{bits}:{range_of}") for range_of in RANGES)
    assert len(whole.encode(x)) < len(each.encode(x)) - 2000


def test_quiet_channels_need_ranges_of_their_own() -> None:
    x = torch.rand(64, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    x[:, 0] *= 0.1
    whole, each = (parse_codec(name) for name in ("int2:tensor", "int2"))
    assert np.unique(whole.decode(whole.encode(x))[:, 0]).size == 1
    assert np.unique(each.decode(each.encode(x))[:, 0]).size == 4


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


@every_bits
@every_range
def test_bits_are_what_is_sent(bits: int, range_of: str) -> None:
    x = torch.rand(16, 8, 4, 4)
    expected = x.numel() * bits // 8
    assert expected <= len(parse_codec(f"int{bits}:{range_of}").encode(x)) <= expected + 150
