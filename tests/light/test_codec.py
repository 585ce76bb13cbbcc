"""Payloads without torch are those of the codecs, bit for bit."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.codecs.base import decode, parse_codec
from eaves.errors import ConfigError, PayloadError
from eaves.light.codec import ENCODERS, LightCodec, decode_floats

NAMES = [first + more for first in ENCODERS for more in ("", "+zstd", "+zstd:3")]
SHAPES = [(1, 1), (3, 8), (2, 5, 4, 3), (1, 3, 1, 1), (4, 2, 7)]
Features = npt.NDArray[np.float32]


def features(shape: tuple[int, ...], seed: int = 0) -> Features:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kinds(shape: tuple[int, ...]) -> dict[str, Features]:
    z = features(shape)
    dead = np.maximum(z, 0)
    dead[:, 0] = 0
    return {
        "both signs": z,
        "after a ReLU": np.maximum(z, 0),
        "a dead channel": dead,
        "nothing": np.zeros_like(z),
        "constant": np.full_like(z, -1.5),
        "nearly constant": 1 + z * np.float32(1e-40),
        "large": z * 1e4,
        "small": z * np.float32(1e-30),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_payloads_are_those_of_the_codecs(name: str, shape: tuple[int, ...]) -> None:
    for what, z in kinds(shape).items():
        expected = parse_codec(name).encode(torch.from_numpy(z))
        assert LightCodec(name).encode(z) == expected, what


@settings(deadline=None, max_examples=100)  # a busy machine is no failure
@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=12, max_size=12),
    name=st.sampled_from(NAMES),
)
def test_payloads_of_any_values_decode_to_the_same(values: list[float], name: str) -> None:
    z = np.array(values, np.float32).reshape(2, 3, 2)
    ours = decode(LightCodec(name).encode(z))
    theirs = decode(parse_codec(name).encode(torch.from_numpy(z)))
    assert torch.equal(ours, theirs)  # which does not tell -0 from 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    z = features((2, 3))
    z[1, 1] = value
    with pytest.raises(ValueError, match="expected finite features"):
        LightCodec(name).encode(z)


def test_nothing_is_no_payload() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        LightCodec("fp32").encode(np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("name", ["", "int4", "bf16", "zstd", "fp32+range", "fp32+zstd+zstd", "x"])
def test_what_a_device_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown codec of a device without torch"):
        LightCodec(name)


def test_a_level_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="from 1 to 19"):
        LightCodec("fp32+zstd:30")


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp16:scaled"])
def test_answers_are_read_as_the_codecs_read_them(name: str) -> None:
    payload = parse_codec(name).encode(
        torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    )
    assert decode_floats(payload, shape=(5, 7)).tolist() == decode(payload).tolist()
    for other in ((5, 6), (7, 5), (35, 1)):
        with pytest.raises(PayloadError, match=r"expected an answer of shape"):
            decode_floats(payload, shape=other)
    for cut in (0, 3, 20, len(payload) - 1):
        with pytest.raises(PayloadError):
            decode_floats(payload[:cut], shape=(5, 7))


@pytest.mark.parametrize("name", ["int8", "bf16", "fp32+zstd"])
def test_an_answer_of_another_codec_is_refused(name: str) -> None:
    with pytest.raises(PayloadError, match="expected an answer in fp32 or fp16"):
        decode_floats(parse_codec(name).encode(torch.ones(1, 2)), shape=(1, 2))


def test_an_answer_that_is_not_finite_is_refused() -> None:
    payload = bytearray(parse_codec("fp32").encode(torch.ones(1, 1)))
    from zlib import crc32

    payload[-8:-4] = np.array(np.nan, "<f4").tobytes()
    payload[-4:] = crc32(bytes(payload[:-4])).to_bytes(4, "little")
    with pytest.raises(PayloadError, match="finite"):
        decode_floats(bytes(payload), shape=(1, 1))
