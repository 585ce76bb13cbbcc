"""Chains: names, round trips over every codec, dtype, shape and stride, and use by threads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eaves.codecs.base import CODECS, Codec, decode, parse_codec
from eaves.codecs.entropy import range_coder
from eaves.codecs.images import jpeg, png
from eaves.errors import ConfigError, PayloadError

CASTS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "fp16:scaled": torch.float16,
    "bf16": torch.bfloat16,
}
AFFINE = [f"int{bits}{tail}" for bits in (8, 4, 2, 1) for tail in (":tensor", ":channel")]
BYTES = ["", "+zstd", "+zstd:3", "+range", "+range+zstd"]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def laid_out(x: Tensor, how: str) -> Tensor:
    """Return the values of ``x`` in another memory."""
    if how == "channels_last" and x.dim() in (4, 5):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return x.to(memory_format=formats[x.dim()])
    if how == "reversed":
        return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    if how == "strided":
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    return x


layouts = st.sampled_from(["contiguous", "channels_last", "reversed", "strided"])
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


def features(shape: tuple[int, ...], seed: int, dtype: torch.dtype, relu: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return (x.relu() if relu else x).to(dtype)


@settings(deadline=None, max_examples=250)
@given(
    tensor_stage=st.sampled_from([*CASTS, *AFFINE]),
    byte_stages=st.sampled_from(BYTES),
    shape=shapes,
    dtype=st.sampled_from(FLOATS),
    how=layouts,
    seed=st.integers(0, 2**32),
    relu=st.booleans(),
)
def test_features_come_back(
    tensor_stage: str,
    byte_stages: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    how: str,
    seed: int,
    relu: bool,
) -> None:
    x = laid_out(features(shape, seed, dtype, relu), how)
    before = x.clone()
    codec = parse_codec(tensor_stage + byte_stages)
    y = codec.decode(codec.encode(x))
    assert torch.equal(x, before)
    assert (y.shape, y.dtype, y.is_leaf, y.requires_grad) == (x.shape, torch.float32, True, False)
    if how == "channels_last" or x.is_contiguous():
        assert y.stride() == x.stride() or 1 in shape
    else:
        assert y.is_contiguous() or 1 in shape or how == "reversed"
    wanted = x.float()  # float64 is rounded to float32 first
    if tensor_stage in CASTS:
        assert torch.equal(y, wanted.to(CASTS[tensor_stage]).float())
    else:
        assert ((y.double() - wanted.double()).abs() <= bound(tensor_stage, wanted)).all()
    assert torch.equal(decode(codec.encode(x)), y)


def bound(stage: str, x: Tensor) -> Tensor:
    """Half a quantisation step for each channel, and float32 rounding, broadcast over ``x``."""
    levels = 2 ** int(stage[3]) - 1
    dims = tuple(range(x.dim())) if "tensor" in stage else (0, *range(2, x.dim()))
    span: Tensor = x.amax(dims, keepdim=True).double() - x.amin(dims, keepdim=True).double()
    return span.mul(0.5 * (1 + 1e-3) / levels).add(1e-6 * x.abs().amax().item())


@settings(deadline=None, max_examples=80)
@given(
    codec=st.sampled_from(["raw", "raw+zstd", "raw+range", "png", "png+zstd", "jpeg", "jpeg:75"]),
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    how=layouts,
    seed=st.integers(0, 2**32),
)
def test_images_come_back(
    codec: str, batch: int, channels: int, size: tuple[int, int], how: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, *size)
    x = laid_out(torch.randint(256, shape, dtype=torch.uint8, generator=generator), how)
    y = parse_codec(codec).decode(parse_codec(codec).encode(x))
    assert (y.shape, y.dtype, y.is_leaf) == (x.shape, torch.uint8, True)
    if how == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)
    if not codec.startswith("jpeg"):
        assert torch.equal(y, x)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "int4:channel+zstd", "raw"])
def test_what_was_decoded_shares_no_memory(codec: str) -> None:
    x = torch.ones(2, 3, 4, 4, dtype=parse_codec(codec).dtype)
    payload = parse_codec(codec).encode(x)
    parse_codec(codec).decode(payload).zero_()
    assert torch.equal(parse_codec(codec).decode(payload), x)
    assert x.all()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("int8", "int8"),
        (" INT8 + zstd ", "int8+zstd"),
        ("int8:tensor", "int8"),
        ("int8:channel+zstd", "int8:channel+zstd"),
        ("int4:Tensor+range", "int4+range"),
        ("int4:channel", "int4:channel"),
        ("int2:tensor+range", "int2:tensor+range"),
        ("int2:channel", "int2"),
        ("int1:tensor", "int1:tensor"),
        ("int1:channel+zstd", "int1+zstd"),
        ("jpeg:90", "jpeg"),
        ("jpeg:075", "jpeg:75"),
        ("raw+zstd:03", "raw+zstd:3"),
        ("fp16+range+zstd", "fp16+range+zstd"),
    ],
)
def test_names_are_canonical(text: str, name: str) -> None:
    assert parse_codec(text).name == name
    assert parse_codec(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", r"unknown codec stage 'int9'; choose from: int"),
        ("zstd:3+int8", r"starts with 'zstd', which codes bytes; start with one of: int8, fp32"),
        ("int8+fp16", r"has 'fp16' where it cannot be; after the tensor stage 'int8' come byte"),
        ("int8+zstd+zstd", r"has 'zstd' where it cannot be; .* at most once: zstd, range"),
        ("int8:row", r"unknown option of int8 'row'; choose from: tensor, channel"),
        ("int2:chanel", r"unknown option of int2 'chanel'; choose from: channel, tensor"),
        ("int8:", r"unknown option of int8 ''; choose from: tensor, channel"),
        ("fp32:16", r"'fp32' takes no option, got 'fp32:16'"),
        ("int8+range:1", r"'range' takes no option"),
        ("int8+zstd:0", r"expected 'zstd:N' with N from 1 to 19, got 'zstd:0'"),
        ("int8+zstd:", r"expected 'zstd:N' with N from 1 to 19, got 'zstd:'"),
        ("jpeg:101", r"expected 'jpeg:N' with N from 1 to 100"),
        ("jpeg:²", r"expected 'jpeg:N'"),
        ("", r"unknown codec stage ''"),
        ("int8+", r"unknown codec stage ''"),
    ],
)
def test_a_wrong_name_is_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_codec(text)


@pytest.mark.parametrize(
    ("package", "build", "message"),
    [
        ("constriction", range_coder, r"install eaves\[coder\]"),
        ("PIL", png, r"install eaves\[lab\]"),
        ("PIL", jpeg, r"install eaves\[lab\]"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, build: object, message: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert callable(build)
    with pytest.raises(ConfigError, match=message):
        build(None)


def test_a_payload_of_a_codec_not_installed_here_is_a_payload_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = parse_codec("int4+range").encode(torch.ones(2, 2))
    monkeypatch.setitem(sys.modules, "constriction", None)
    parse_codec.cache_clear()
    with pytest.raises(PayloadError, match=r"codec 'int4\+range': .* install eaves\[coder\]"):
        decode(payload)


def test_the_other_side_must_use_the_same_codec() -> None:
    payload = parse_codec("int8+zstd").encode(torch.ones(2, 2))
    with pytest.raises(PayloadError, match=r"of codec 'int4\+zstd', got one of 'int8\+zstd'"):
        parse_codec("int4+zstd").decode(payload)


@pytest.mark.parametrize("text", ["fp32", "fp16", "bf16", "int8", "int8:channel", "int1"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(text: str, bad: float) -> None:
    x = torch.ones(2, 3, 4, 4)
    x[1, 2, 3, 0] = bad
    with pytest.raises(ValueError, match=rf"expected finite features .* '{text}', found {bad}"):
        parse_codec(text).encode(x)


@pytest.mark.parametrize(
    ("text", "x", "message"),
    [
        ("int8", torch.zeros(0, 3), r"at least one element, got shape \(0, 3\)"),
        ("fp32", torch.tensor(1.0), r"expected 1 to 8 dimensions"),
        ("raw", torch.zeros([1] * 9, dtype=torch.uint8), r"expected 1 to 8 dimensions"),
        ("int8:channel", torch.zeros(3), r"one range per channel .* use 'int8:tensor'"),
        ("int2", torch.zeros(3), r"'int2' has one range per channel .* use 'int2:tensor'"),
        ("int8", torch.zeros(2, 3, dtype=torch.uint8), r"takes torch.float32 .*, got torch.uint8"),
        ("raw", torch.zeros(2, 3), r"takes torch.uint8, got torch.float32"),
        ("png", torch.zeros(2, 2, 4, 4, dtype=torch.uint8), r"with C 1 or 3, got shape"),
        ("jpeg", torch.zeros(3, 4, 4, dtype=torch.uint8), r"codes images \(B, C, H, W\)"),
        ("png", torch.zeros(1, 1, 1, 65_501, dtype=torch.uint8), r"65500 to a side"),
    ],
)
def test_a_tensor_that_a_codec_cannot_carry_is_refused(text: str, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_codec(text).encode(x)


@pytest.mark.parametrize("text", ["int8", "int4", "int2:tensor", "int1:tensor"])
def test_one_range_for_the_tensor_needs_no_channels(text: str) -> None:
    x = torch.tensor([0.0, 3.0, 3.0])
    assert torch.equal(decode(parse_codec(text).encode(x)), x)


def test_features_that_require_grad_are_sent_without_it() -> None:
    x = torch.ones(2, 2, requires_grad=True)
    assert not decode(parse_codec("int8").encode(x)).requires_grad


def test_threads_share_a_codec() -> None:
    codec = parse_codec("int8+zstd")
    batches = [features((16, 8, 4, 4), seed, torch.float32, True) for seed in range(24)]
    alone = [codec.encode(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(codec.encode, batches))
        decoded = list(pool.map(codec.decode, together))
    assert together == alone
    assert all(torch.equal(y, codec.decode(data)) for y, data in zip(decoded, alone, strict=True))


def test_the_table_holds_every_stage_once() -> None:
    assert {name.partition(":")[0] for name in [*CASTS, *AFFINE]} | {
        "raw",
        "png",
        "jpeg",
        "zstd",
        "range",
    } == set(CODECS)
    assert isinstance(parse_codec("int8"), Codec)
