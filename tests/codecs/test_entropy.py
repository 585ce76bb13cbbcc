"""Byte stages: exact, bounded, near the entropy, and the same bits on every machine."""

import contextlib
import hashlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.codecs.contract import ByteStage
from eaves.codecs.entropy import _MASS, Range, Zstd
from eaves.errors import PayloadError

STAGES: list[ByteStage] = [Zstd(None), Zstd(1), Zstd(19), Range()]
stages = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def skewed(size: int, seed: int = 0) -> bytes:
    """Bytes from integer arithmetic only: half of them 0, the rest falling off."""
    state, out = seed * 2 + 1, bytearray()
    for _ in range(size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        a, b = state >> 40 & 0xFF, state >> 52 & 0xFF
        out.append(0 if state >> 63 else a * b >> 8)
    return bytes(out)


@stages
@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=400), copies=st.integers(1, 40))
def test_bytes_come_back(stage: ByteStage, data: bytes, copies: int) -> None:
    whole = data * copies
    assert stage.decode(stage.encode(whole), len(whole)) == whole
    assert stage.decode(stage.encode(memoryview(whole)), len(whole) + 1) == whole


@stages
def test_more_than_the_limit_is_refused_before_it_is_made(stage: ByteStage) -> None:
    with pytest.raises(PayloadError, match=r"at most 999"):
        stage.decode(stage.encode(bytes(1000)), 999)


@stages
@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_decoded_within_the_limit(
    stage: ByteStage, data: bytes
) -> None:
    with contextlib.suppress(PayloadError):
        assert len(stage.decode(data, 500)) <= 500


@stages
def test_damage_is_refused_or_decoded_within_the_limit(stage: ByteStage) -> None:
    data, rng, refused = bytearray(stage.encode(skewed(3000))), np.random.default_rng(0), 0
    for _ in range(300):
        damaged = data.copy()
        damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            assert len(stage.decode(bytes(damaged), 4000)) <= 4000
        except PayloadError:
            refused += 1
    assert refused > 3


@stages
@pytest.mark.parametrize("change", ["cut", "longer"])
def test_a_cut_or_longer_stream_is_refused(stage: ByteStage, change: str) -> None:
    data = stage.encode(skewed(3000))
    with pytest.raises(PayloadError):
        stage.decode(data[: len(data) // 8 * 4] if change == "cut" else data + data, 3000)


def test_a_frame_that_hides_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(PayloadError, match="unknown size"):
        Zstd(None).decode(frame, 1000)


def test_a_frame_that_asks_for_a_huge_window_is_refused() -> None:
    huge = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=huge).compressobj()
    frame = bytearray(stream.compress(bytes(100)) + stream.flush())
    # magic 4, descriptor 1, window 1: declare a content size of 2 bytes (+256) after the window
    frame[4] |= 0x40
    frame[6:6] = (1).to_bytes(2, "little")
    assert zstandard.get_frame_parameters(bytes(frame)).window_size == 2**27
    with pytest.raises(PayloadError, match="window of 134217728 bytes"):
        Zstd(None).decode(bytes(frame), 1000)


def test_range_coding_comes_within_one_percent_of_the_entropy() -> None:
    data = skewed(60_000)
    counts = np.bincount(np.frombuffer(data, np.uint8))
    p = counts[np.flatnonzero(counts)] / len(data)
    entropy_bytes = -(p * np.log2(p)).sum() * len(data) / 8
    assert entropy_bytes < len(Range().encode(data)) < 1.01 * entropy_bytes


def test_range_coding_beats_zstd_on_skewed_bytes() -> None:
    data = skewed(60_000)
    assert len(Range().encode(data)) < len(Zstd(None).encode(data)) < len(Zstd(1).encode(data))


def test_a_dead_channel_costs_next_to_nothing() -> None:
    data = bytes(100_000)
    assert len(Range().encode(data)) < 100
    assert len(Zstd(None).encode(data)) < 100


def test_range_coded_bits_are_pinned() -> None:
    """The coder and its table are integers, so any machine writes (and reads) these very bytes."""
    data = skewed(20_000, seed=7)
    assert hashlib.sha256(data).hexdigest()[:16] == "db5d9f22f842f922"
    assert hashlib.sha256(Range().encode(data)).hexdigest()[:16] == "2a12786e0b027be1"


@given(st.lists(st.integers(0, 2**32), min_size=256, max_size=256))
def test_the_table_sums_exactly_so_that_no_float_is_rounded(counts: list[int]) -> None:
    class Spy:
        class model:  # noqa: N801
            @staticmethod
            def Categorical(mass: np.ndarray, perfect: bool) -> np.ndarray:  # noqa: N802
                assert not perfect
                return mass

    coder = Range()
    coder._stream = Spy
    mass = coder._model(np.array(counts, np.int64))
    assert (mass >= 0).all()
    assert (mass == np.floor(mass)).all()
    assert sum(int(m) for m in mass) == _MASS == 2**24 - 256
