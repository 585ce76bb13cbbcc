"""Casts: the values of a second library, refusal of what overflows, and why the bytes are split."""

import math
import struct

import numpy as np
import pytest
import torch
import zstandard

from eaves.codecs.base import decode, parse_codec
from eaves.codecs.contract import Layout
from eaves.codecs.payload import Payload
from eaves.errors import ConfigError, PayloadError


def test_fp16_rounds_as_numpy_does() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(6)) * 100
    y = parse_codec("fp16").decode(parse_codec("fp16").encode(x))
    assert np.array_equal(y.numpy(), x.numpy().astype(np.float16).astype(np.float32))


def test_bf16_keeps_the_upper_half_of_the_bits() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(7))
    bits = x.numpy().view(np.uint32).astype(np.uint64)
    to_even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    y = parse_codec("bf16").decode(parse_codec("bf16").encode(x))
    assert np.array_equal(y.numpy().view(np.uint32), to_even.astype(np.uint32))


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("fp16", torch.tensor([65_504.5])),
        ("fp16", torch.tensor([-1e5])),
        ("fp16:scaled", torch.tensor([2e38])),
        ("fp16:scaled", torch.tensor([1e39], dtype=torch.float64)),
        ("bf16", torch.tensor([3.4e38])),
        ("fp32", torch.tensor([1e39], dtype=torch.float64)),
        ("int8", torch.tensor([0.0, 2e38])),
        ("int8:channel", torch.tensor([[0.0, 2e38]])),
    ],
)
def test_what_would_become_infinite_is_refused(name: str, x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"codec '{name}', found .* a codec of wider range"):
        parse_codec(name).encode(x)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_splitting_the_bytes_makes_zstd_smaller(name: str) -> None:
    x = torch.randn(64, 64, 4, 4, generator=torch.Generator().manual_seed(8)).relu()
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    whole = zstandard.compress(x.to(dtype).view(torch.int16).numpy().tobytes(), 1)
    assert len(parse_codec(f"{name}+zstd").encode(x)) < 0.99 * len(whole)


# Gradients, scaled


def _gradients(shrunk: int = 1) -> torch.Tensor:
    """Magnitudes as those of ResNet-18's gradients at 224 x 224: a tenth is below 3e-8."""
    generator = torch.Generator().manual_seed(9)
    logs = torch.randn(50_000, generator=generator) * 1.8 + math.log(3e-7)
    return (logs.exp() * torch.randn(50_000, generator=generator).sign()).view(50, 1000) / shrunk


def _zeros(codec: str, x: torch.Tensor) -> float:
    y = parse_codec(codec).decode(parse_codec(codec).encode(x))
    return float((y == 0).float().mean())


@pytest.mark.parametrize(("shrunk", "lost"), [(1, 0.05), (256, 0.9)])
def test_scaled_fp16_keeps_the_gradients_that_fp16_makes_zero(shrunk: int, lost: float) -> None:
    gradients = _gradients(shrunk)
    assert _zeros("fp16", gradients) > lost
    assert _zeros("fp16:scaled", gradients) == 0
    y = parse_codec("fp16:scaled").decode(parse_codec("fp16:scaled").encode(gradients))
    assert ((y - gradients).abs() <= gradients.abs() * 2**-10.99).all()


def test_the_scale_changes_nothing_that_fp16_held_and_takes_one_byte() -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(6)).double() * 3
    x[x.abs() < 2**-14] = 1.0
    for scale in (1.0, 2.0**-30, 2.0**40):
        y = parse_codec("fp16:scaled").decode(parse_codec("fp16:scaled").encode(x * scale))
        assert torch.equal(y, (x.half().double() * scale).float())
    plain, scaled = (len(parse_codec(name).encode(x)) for name in ("fp16", "fp16:scaled"))
    assert scaled - plain == 1 + len(":scaled")


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e-20, 1.0, 65_519.0, 1e30, 1.7e38])
def test_the_largest_value_survives_whatever_its_size(value: float) -> None:
    x = torch.tensor([[value, -value, 0.0]])
    y = decode(parse_codec("fp16:scaled").encode(x))
    # A fp32 that is itself subnormal, where even the largest scale leaves fp16 fewer bits.
    assert torch.allclose(y, x, rtol=2**-11, atol=1e-45)
    assert y[0, 0] > 0


def test_a_tensor_of_zeros_stays_one() -> None:
    assert not decode(parse_codec("fp16:scaled").encode(torch.zeros(2, 3))).any()


@pytest.mark.parametrize("params", [b"", b"\0\0", struct.pack("<b", 127), struct.pack("<b", -112)])
def test_a_scale_that_no_encoder_writes_is_refused(params: bytes) -> None:
    data = b"".join(Payload("fp16:scaled", Layout((1, 1)), params, b"\0\x3c").parts())
    with pytest.raises(PayloadError):
        decode(data)


def test_what_becomes_infinite_by_its_scale_is_refused() -> None:
    params = struct.pack("<b", -111)
    data = b"".join(Payload("fp16:scaled", Layout((1, 1)), params, b"\0\x7c").parts())
    with pytest.raises(PayloadError, match="finite"):
        decode(data)


@pytest.mark.parametrize("text", ["fp16:half", "fp32:scaled", "bf16:scaled"])
def test_scaling_is_an_option_of_fp16_alone(text: str) -> None:
    with pytest.raises(ConfigError, match=r"fp16:scaled|takes no option"):
        parse_codec(text)
