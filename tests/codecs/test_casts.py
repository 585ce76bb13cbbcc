"""Casts: the values of a second library, refusal of what overflows, and why the bytes are split."""

import numpy as np
import pytest
import torch
import zstandard

from eaves.codecs.base import parse_codec


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
