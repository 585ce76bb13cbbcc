"""WAV files: every format by other writers, damage of any kind named; resampling against scipy.

Dimension key:  N samples   F frames (one sample of each channel)
"""

import struct
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from scipy.io import wavfile

from eaves.data import waves
from eaves.data.waves import fitted, read_wave, resampled
from eaves.errors import DataError

_DTYPES = {8: np.uint8, 16: np.int16, 32: np.int32}


def _sound(n: int = 2_000, channels: int = 1) -> npt.NDArray[np.float64]:
    """Noise between -1 and 1, (F, channels)."""
    return np.random.default_rng(5).uniform(-1, 1, (n, channels))


def _pcm(path: Path, sound_FC: npt.NDArray[np.float64], *, bits: int) -> Path:
    """Write PCM with the standard library, which knows nothing of our reader."""
    if bits == 8:
        data = (sound_FC * 127 + 128).round().astype(np.uint8).tobytes()
    else:
        whole = (sound_FC * (2 ** (bits - 1) - 1)).round().astype("<i4")
        data = whole.reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound_FC.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(8_000)
        file.writeframes(data)
    return path


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _fmt(*, code: int = 1, channels: int = 1, rate: int = 8_000, bits: int = 16) -> bytes:
    step = channels * bits // 8
    return struct.pack("<HHIIHH", code, channels, rate, rate * step, step, bits)


_WHOLE = _riff((b"fmt ", _fmt()), (b"data", np.arange(-50, 50, dtype="<i2").tobytes()))


def _read(path: Path, data: bytes) -> waves.Wave:
    path.write_bytes(data)
    return read_wave(path)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pcm_of_any_width_is_the_mean_of_its_channels(
    tmp_path: Path, bits: int, channels: int
) -> None:
    sound_FC = _sound(channels=channels)
    samples_N, rate_hz = read_wave(_pcm(tmp_path / "a.wav", sound_FC, bits=bits))
    assert (samples_N.dtype.name, samples_N.shape, rate_hz) == ("float32", (2_000,), 8_000)
    assert np.abs(samples_N - sound_FC.mean(axis=1)).max() < 1.5 * 2.0 ** (1 - min(bits, 24))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_is_read_as_it_is(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    sound_FC = _sound(channels=2).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 44_100, sound_FC)
    samples_N, rate_hz = read_wave(tmp_path / "a.wav")
    assert rate_hz == 44_100
    np.testing.assert_allclose(samples_N, sound_FC.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(
    ("bits", "given", "expected"),
    [
        (8, bytes([0, 128, 255]), [-1, 0, 127 / 128]),
        (16, struct.pack("<3h", -(2**15), 0, 2**14), [-1, 0, 0.5]),
        (24, b"\0\0\x80\0\0\0\0\0\x40", [-1, 0, 0.5]),
        (32, struct.pack("<3i", -(2**31), 0, 2**30), [-1, 0, 0.5]),
    ],
)
def test_the_scale_is_exact(tmp_path: Path, bits: int, given: bytes, expected: list[float]) -> None:
    data = _riff((b"fmt ", _fmt(bits=bits)), (b"data", given))
    assert _read(tmp_path / "a.wav", data).samples.tolist() == expected


def test_few_float_samples_beyond_one_are_clipped_and_many_are_of_another_scale(
    tmp_path: Path,
) -> None:
    quiet = [0.25] * 998
    data = np.array([3e38, -2, *quiet], "<f4").tobytes()
    wave_file = _riff((b"fmt ", _fmt(code=3, bits=32)), (b"data", data))
    assert _read(tmp_path / "a.wav", wave_file).samples.tolist() == [1, -1, *quiet]
    wavfile.write(tmp_path / "b.wav", 8_000, (_sound(2_000) * 32_767).astype(np.float32))
    with pytest.raises(DataError, match=r"b.wav: .*from -1 to 1, found 100% .*divide them by"):
        read_wave(tmp_path / "b.wav")


_DATA = _WHOLE[44:]


@pytest.mark.parametrize(
    ("whole", "size"),
    [
        (0xFFFF_FFFF, 0xFFFF_FFFF),  # ffmpeg
        (0x7FFF_F024, 0x7FFF_F000),  # sox
        (0, 0),  # headers written before anything is known
        (36, 0),
        (0xFFFF_FFFF, 0),
        (len(_WHOLE) - 8, 0xFFFF_FFFF),
    ],
)
def test_a_recording_from_a_pipe_is_read_to_its_end(tmp_path: Path, whole: int, size: int) -> None:
    header = struct.pack("<4sI", b"RIFF", whole) + b"WAVE"
    form = struct.pack("<4sI", b"fmt ", 16) + _fmt()
    info = struct.pack("<4sI", b"LIST", 4) + b"INFO"
    for before in (b"", info):
        data = header + form + before + struct.pack("<4sI", b"data", size) + _DATA
        if whole == len(_WHOLE) - 8:
            data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
        expected = _read(tmp_path / "whole.wav", _WHOLE).samples.tolist()
        assert _read(tmp_path / "a.wav", data).samples.tolist() == expected


def test_a_chunk_that_is_empty_is_not_read_over_what_comes_after(tmp_path: Path) -> None:
    after = _riff((b"fmt ", _fmt()), (b"data", b""), (b"LIST", b"abcd" * 40))
    with pytest.raises(DataError, match="one or more samples"):
        _read(tmp_path / "a.wav", after)


def test_half_a_frame_at_the_end_of_a_pipe_is_refused(tmp_path: Path) -> None:
    data = _WHOLE[:40] + struct.pack("<I", 2**32 - 1) + _DATA[:-1]
    with pytest.raises(DataError, match=r"one or more samples .* found 199 bytes"):
        _read(tmp_path / "a.wav", data)


def test_an_extensible_header_and_other_chunks_are_read_over(tmp_path: Path) -> None:
    # Sub-format PCM, as KSDATAFORMAT_SUBTYPE_PCM has it.
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    extensible = _fmt(code=0xFFFE) + struct.pack("<HHI", 22, 16, 4) + guid
    data = np.array([0, 2**14], "<i2").tobytes()
    odd = (b"LIST", b"abc")
    for chunks in ([odd, (b"fmt ", extensible), odd, (b"data", data), odd],):
        assert _read(tmp_path / "a.wav", _riff(*chunks)).samples.tolist() == [0, 0.5]
    after = _riff((b"fmt ", _fmt()), (b"data", data)) + b"id3"
    assert _read(tmp_path / "a.wav", after).samples.tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected it to begin with RIFF and WAVE, found b''"),
        (b"\xff\xfbID3 an mp3 file", "expected it to begin with RIFF and WAVE"),
        (_WHOLE[:12], "expected a chunk 'fmt ' and after it one 'data'"),
        (_WHOLE[:30], "it is cut off: expected 16 bytes in its chunk 'fmt ', found 10"),
        (_WHOLE[:-1], "it is cut off: expected 200 bytes in its chunk 'data', found 199"),
        (_riff((b"data", b"ab"), (b"fmt ", _fmt())), "expected a chunk 'fmt ' and after it one"),
        (_riff((b"fmt ", _fmt()[:14])), "expected 16 or more bytes in its chunk 'fmt ', found 14"),
        (_riff((b"fmt ", _fmt()), (b"data", b"")), "one or more samples .* found 0 bytes"),
        (_riff((b"fmt ", _fmt()), (b"data", b"abc")), "one or more samples .* found 3 bytes"),
        (_riff((b"fmt ", _fmt(code=7, bits=8))), "found format 7 with 8 bits"),  # mu-law
        (_riff((b"fmt ", _fmt(code=3, bits=16))), "found format 3 with 16 bits"),
        (_riff((b"fmt ", _fmt(bits=12))), "found format 1 with 12 bits"),
        (_riff((b"fmt ", _fmt(code=0xFFFE))), "found format 65534"),
        (_riff((b"fmt ", _fmt(channels=0))), "for 0 channels of 16 bits"),
        (_riff((b"fmt ", _fmt()[:12] + b"\x03\0\x10\0")), "expected 2 bytes .* found 3"),
        (_riff((b"fmt ", _fmt(rate=1))), "expected a rate from 1000 to 384000 Hz, found 1"),
        (_riff((b"fmt ", _fmt(rate=384_001))), "to 384000 Hz, found 384001"),
        (
            _riff((b"fmt ", _fmt(code=3, bits=32)), (b"data", struct.pack("<f", float("nan")))),
            "expected finite samples",
        ),
    ],
)
def test_damage_of_any_kind_names_the_file(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"cannot read the recording .*bad.wav: .*{message}"):
        _read(tmp_path / "bad.wav", data)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.wav: No such file"):
        read_wave(tmp_path / "gone.wav")
    with pytest.raises(DataError, match="Is a directory"):
        read_wave(tmp_path)


def test_a_header_that_promises_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    promise = _WHOLE[:40] + struct.pack("<I", 2**31 - 5_000) + _WHOLE[44:]
    with pytest.raises(DataError, match=r"expected 2,147,478,648 bytes .* found 200"):
        _read(tmp_path / "a.wav", promise)


def test_a_recording_that_is_too_large_or_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _pcm(tmp_path / "a.wav", _sound(16_000), bits=16)
    size = path.stat().st_size
    monkeypatch.setattr(waves, "LARGEST_BYTES", size)
    monkeypatch.setattr(waves, "LONGEST_S", 2)
    assert len(read_wave(path).samples) == 16_000
    monkeypatch.setattr(waves, "LARGEST_BYTES", size - 1)
    with pytest.raises(DataError, match=f"it has more than {size - 1:,} bytes"):
        read_wave(path)
    monkeypatch.setattr(waves, "LARGEST_BYTES", size)
    monkeypatch.setattr(waves, "LONGEST_S", 1)
    with pytest.raises(DataError, match="expected at most 1 s, found 2"):
        read_wave(path)


@settings(deadline=None, max_examples=300)
@given(
    changes=st.dictionaries(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255), max_size=6),
    length=st.integers(0, len(_WHOLE)),
)
def test_altered_bytes_are_sound_or_a_data_error(
    changes: dict[int, int], length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(_WHOLE)
    for place, value in changes.items():
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "altered.wav"
    path.write_bytes(data[: length or None])
    try:
        samples_N = read_wave(path).samples
    except DataError:
        return
    assert len(samples_N)
    assert (np.abs(samples_N) <= 1).all()


@pytest.mark.parametrize(
    ("rate_hz", "wanted_hz"),
    [(8_000, 16_000), (16_000, 8_000), (44_100, 16_000), (48_000, 8_000), (22_051, 16_000)],
)
@pytest.mark.parametrize("n", [1, 777, 5_000])
def test_resampling_is_that_of_scipy(rate_hz: int, wanted_hz: int, n: int) -> None:
    samples_N = _sound(n)[:, 0].astype(np.float32)
    expected = signal.resample_poly(samples_N.astype(np.float64), wanted_hz, rate_hz)
    np.testing.assert_allclose(resampled(samples_N, rate_hz, wanted_hz), expected, atol=1e-6)


def test_resampling_in_small_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    samples_N = _sound(3_000)[:, 0].astype(np.float32)
    whole = resampled(samples_N, 44_100, 16_000)
    monkeypatch.setattr(waves, "_BLOCK", 700)
    np.testing.assert_array_equal(resampled(samples_N, 44_100, 16_000), whole)


def test_a_tone_keeps_its_pitch_and_one_that_does_not_fit_vanishes() -> None:
    seconds = np.arange(48_000) / 48_000
    middle = slice(1_000, 7_000)
    for hz, kept in ((440, 1.0), (3_000, 1.0), (5_500, 0.0), (20_000, 0.0)):
        tone = np.sin(2 * np.pi * hz * seconds).astype(np.float32)
        expected = kept * np.sin(2 * np.pi * hz * np.arange(8_000) / 8_000)
        np.testing.assert_allclose(
            resampled(tone, 48_000, 8_000)[middle], expected[middle], atol=2e-3
        )


def test_the_same_rate_leaves_every_sample_as_it_is() -> None:
    samples_N = _sound()[:, 0].astype(np.float32)
    np.testing.assert_array_equal(resampled(samples_N, 8_000, 8_000), samples_N)


@given(n=st.integers(1, 40), length=st.integers(1, 40))
def test_what_is_fitted_lies_in_the_middle(n: int, length: int) -> None:
    samples_N = np.arange(1, n + 1, dtype=np.float32)
    out = fitted(samples_N, length)
    assert len(out) == length
    kept = out[out > 0]
    assert len(kept) == min(n, length)
    assert (np.diff(kept) == 1).all()
    before, after = (kept[0] - 1, n - kept[-1]) if n > length else _silence(out)
    assert after - before in (0, 1)


def _silence(out: npt.NDArray[np.float32]) -> tuple[int, int]:
    """How many zeros there are at the beginning, and at the end."""
    (places,) = np.nonzero(out)
    return int(places[0]), len(out) - 1 - int(places[-1])
