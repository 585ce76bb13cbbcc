"""Recordings in WAV files: read with care, brought to one rate and one length.

Only numpy is needed: a device with a microphone reads and resamples without scipy, which has 140
MB. Of a file no more is read than :data:`LARGEST_BYTES`, and what its header promises is compared
with what is there. soundfile and scipy.io.wavfile take a file that is cut off for a short one.

Dimension key:  N samples   F frames (one sample of each channel)   T taps
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from eaves.errors import DataError

LARGEST_BYTES = 1 << 26
LONGEST_S = 600
SLOWEST_HZ, FASTEST_HZ = 1_000, 384_000

Samples = npt.NDArray[np.float32]
"""Sound (N,) between -1 and 1."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
_STREAMED = 0x7FFF_F000  # a writer into a pipe cannot go back to put in the size: 2^31 - 4,096 up
_CLIPPED = 0.01  # the share of float samples beyond 1 from which they are of another scale
_BLOCK = 1 << 20  # values that resampling holds at a time, for each of its two factors
_ZERO_CROSSINGS, _KAISER_BETA = 10, 5.0  # as scipy.signal.resample_poly has them by default


@final
class Wave(NamedTuple):
    """A recording in one channel."""

    samples: Samples
    rate_hz: int


@final
class _Format(NamedTuple):
    """What the chunk ``fmt`` says."""

    code: int
    channels: int
    rate_hz: int
    bits: int


def read_wave(path: Path) -> Wave:
    """Return a recording, the mean of its channels.

    It may be PCM of 8, 16, 24 or 32 bits, or float of 32 or 64, which is clipped to [-1, 1] where
    a few samples are beyond. One from a pipe, with no size in its header, is read to its end.

    Raises:
        DataError: no WAV file, one that is cut off or empty, of another format, longer than
            :data:`LONGEST_S` or larger than :data:`LARGEST_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return _parsed(file.read(LARGEST_BYTES + 1))
    except OSError as error:
        raise DataError(f"cannot read the recording {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"cannot read the recording {path}: {error}; save it as WAV (PCM or float), or remove "
            "it"
        ) from error


def resampled(samples_N: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """Return the sound at another rate: ``ceil(N * wanted_hz / rate_hz)`` samples.

    What lies above the lower of the two Nyquist frequencies is filtered out. Samples before the
    beginning and after the end count as zero.

    The filter is a sinc under a Kaiser window, taken apart into one short filter for each phase, as
    in Crochiere and Rabiner, *Multirate Digital Signal Processing* (1983), section 3.3; its length
    and window are those of ``scipy.signal.resample_poly``.

    >>> resampled(np.ones(80, np.float32), 8_000, 16_000).shape
    (160,)
    """
    if rate_hz == wanted_hz:
        return samples_N
    up, down = wanted_hz // gcd(rate_hz, wanted_hz), rate_hz // gcd(rate_hz, wanted_hz)
    phases_PT = _phases(up, down)
    taps, reach = phases_PT.shape[1], _ZERO_CROSSINGS * max(up, down)
    places_M = np.arange(ceil(len(samples_N) * up / down)) * down + reach
    padding = (taps - 1, int(places_M[-1]) // up + 1)  # more than is ever reached to the right
    windows_KT = np.lib.stride_tricks.sliding_window_view(np.pad(samples_N, padding), taps)
    out_M = np.empty(len(places_M), np.float32)
    block = max(1, _BLOCK // taps)
    for i in range(0, len(places_M), block):
        before, phase = np.divmod(places_M[i : i + block], up)
        out_M[i : i + block] = np.einsum("mt,mt->m", windows_KT[before], phases_PT[phase])
    return out_M


def fitted(samples_N: Samples, length: int) -> Samples:
    """Return the ``length`` samples in the middle, with zeros on both sides where there are fewer.

    >>> fitted(np.array([1, 2, 3], np.float32), 6).tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]
    >>> fitted(np.array([1, 2, 3, 4], np.float32), 2).tolist()
    [2.0, 3.0]
    """
    spare = length - len(samples_N)
    if spare < 0:
        return samples_N[-spare // 2 :][:length]
    return np.pad(samples_N, (spare // 2, spare - spare // 2))


def _parsed(data: bytes) -> Wave:
    """Return what a file holds; raises ``ValueError`` where it holds no sound that we can read."""
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES:,} bytes")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"expected it to begin with RIFF and WAVE, found {data[:12]!r}")
    found = None
    for name, body in _chunks(data):
        if name == b"fmt ":
            found = _format(body)
        elif name == b"data" and found is not None:
            return Wave(_samples(body, found), found.rate_hz)
    raise ValueError("expected a chunk 'fmt ' and after it one 'data', found no such two")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the body of each chunk."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data" and _is_streamed(data, at, size):
            size = len(data) - at - 8
        body = memoryview(data)[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError(
                f"it is cut off: expected {size:,} bytes in its chunk {name.decode('latin-1')!r}, "
                f"found {len(body):,}"
            )
        yield name, body
        at += 8 + size + size % 2  # chunks begin at even places


def _is_streamed(data: bytes, at: int, size: int) -> bool:
    """Return whether the samples at ``at`` go to the end of the file, whatever their ``size`` says.

    ffmpeg writes 2^32 - 1 into a pipe, sox 2^31 - 4,096, others 0. A chunk of 0 bytes is empty,
    though, where the size of the whole says that it ends there or that others come after it and the
    file is as long as that.
    """
    if size:
        return size >= _STREAMED
    whole: int = struct.unpack_from("<I", data, 4)[0]
    return whole != len(data) - 8


def _format(body: memoryview) -> _Format:
    if len(body) < 16:
        raise ValueError(f"expected 16 or more bytes in its chunk 'fmt ', found {len(body)}")
    code, channels, rate_hz, _, step_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if code == _EXTENSIBLE and len(body) >= 26:
        (code,) = struct.unpack_from("<H", body, 24)  # the first bytes of the sub-format's GUID
    if bits not in _BITS.get(code, ()):
        raise ValueError(
            f"expected PCM of 8, 16, 24 or 32 bits or float of 32 or 64, found format {code} with "
            f"{bits} bits"
        )
    if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise ValueError(f"expected a rate from {SLOWEST_HZ} to {FASTEST_HZ} Hz, found {rate_hz}")
    if channels < 1 or step_bytes != channels * bits // 8:
        raise ValueError(
            f"expected {channels * bits // 8} bytes for {channels} channels of {bits} bits, one "
            f"or more, found {step_bytes}"
        )
    return _Format(code, channels, rate_hz, bits)


def _samples(body: memoryview, form: _Format) -> Samples:
    frames, rest = divmod(len(body), form.channels * form.bits // 8)
    if rest or not frames:
        raise ValueError(
            f"expected one or more samples for each of {form.channels} channels, found "
            f"{len(body):,} bytes"
        )
    if frames > LONGEST_S * form.rate_hz:
        raise ValueError(f"expected at most {LONGEST_S} s, found {frames / form.rate_hz:.0f}")
    values_FC = _values(body, form).reshape(frames, form.channels)
    mean_F: Samples = values_FC.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mean_F


def _values(body: memoryview, form: _Format) -> npt.NDArray[Any]:
    """Return all samples between -1 and 1, as they lie in the file."""
    if form.code == _FLOAT:
        values = np.frombuffer(body, f"<f{form.bits // 8}")
        if not np.isfinite(values).all():
            raise ValueError("expected finite samples, found one that is not")
        beyond = float((np.abs(values) > 1).mean())
        if beyond > _CLIPPED:
            raise ValueError(
                f"expected float samples from -1 to 1, found {beyond:.0%} of them beyond, up to "
                f"{np.abs(values).max():.4g}; divide them by their full scale (32,768 for 16 bits)"
            )
        return values.clip(-1, 1)
    if form.bits == 8:  # alone without a sign
        return (np.frombuffer(body, np.uint8) - np.float32(128)) / 128
    if form.bits == 24:
        padded = np.zeros((len(body) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        return padded.view("<i4").ravel() / 2.0**31
    return np.frombuffer(body, f"<i{form.bits // 8}") / 2.0 ** (form.bits - 1)


@lru_cache(maxsize=8)
def _phases(up: int, down: int) -> npt.NDArray[np.float64]:
    """Return the filter of each phase (up, T), last tap first."""
    reach = _ZERO_CROSSINGS * max(up, down)
    cutoff = 1 / max(up, down)
    taps = np.sinc(cutoff * np.arange(-reach, reach + 1)) * np.kaiser(2 * reach + 1, _KAISER_BETA)
    taps *= up / taps.sum()
    per_phase = ceil(len(taps) / up)
    padded = np.pad(taps, (0, per_phase * up - len(taps)))
    return padded.reshape(per_phase, up).T[:, ::-1].copy()
