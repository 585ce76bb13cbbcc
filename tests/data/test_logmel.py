"""The log-mel image: against scipy and a filterbank written out plainly; tones, clicks, levels.

Dimension key:  B batch   N samples   M mel bands   F frequencies   T frames
"""

from collections.abc import Iterator
from math import log10

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import signal
from torch import Tensor

from eaves.data.logmel import BANDS, FRAMES, RATES_HZ, SHAPE, log_mel, mel_filters


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _tone(hz: float, *, rate_hz: int, amplitude: float = 0.1) -> Tensor:
    return amplitude * torch.sin(2 * torch.pi * hz * torch.arange(rate_hz) / rate_hz)


def _noise(count: int, *, rate_hz: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(count, rate_hz, generator=generator).clamp(-3, 3)


def _corners_hz(rate_hz: int) -> list[float]:
    """The feet and tops of the bands: 42 places, evenly spaced in mel from 20 Hz to Nyquist's."""
    low, high = (2595 * log10(1 + hz / 700) for hz in (20, rate_hz / 2))
    mels = [low + (high - low) * i / (BANDS + 1) for i in range(BANDS + 2)]
    return [700 * (10 ** (mel / 2595) - 1) for mel in mels]


def _plain_filters(rate_hz: int, frequencies: int) -> npt.NDArray[np.float64]:
    """Triangles, one weight after the other."""
    weights = np.zeros((BANDS, frequencies))
    corners = _corners_hz(rate_hz)
    for band in range(BANDS):
        left, top, right = corners[band : band + 3]
        for i in range(frequencies):
            hz = i * rate_hz / 2 / (frequencies - 1)
            if left < hz <= top:
                weights[band, i] = (hz - left) / (top - left)
            elif top < hz < right:
                weights[band, i] = (right - hz) / (right - top)
    return weights


def _reference_db(wave_N: npt.NDArray[np.float64], rate_hz: int) -> npt.NDArray[np.float64]:
    """The levels (M, T) by scipy's transform; 0 dB is a sine of amplitude 1."""
    window, hop, points = rate_hz // 40, rate_hz // 100, {8_000: 256, 16_000: 512}[rate_hz]
    silence = (window - hop) // 2  # so that frame t is centred in the t-th hundredth
    _, _, spectrum_FT = signal.stft(
        np.pad(wave_N, silence),
        rate_hz,
        window="hann",
        nperseg=window,
        noverlap=window - hop,
        nfft=points,
        boundary=None,
        padded=False,
        scaling="spectrum",  # a constant of 1 has 1 there, a sine two halves
    )
    power_MT = _plain_filters(rate_hz, points // 2 + 1) @ np.abs(2 * spectrum_FT) ** 2
    levels: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power_MT, 1e-30))
    return levels


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_levels_are_those_of_an_independent_transform(rate_hz: int) -> None:
    waves_BN = torch.stack(
        [
            _noise(1, rate_hz=rate_hz)[0],
            0.02 * _noise(1, rate_hz=rate_hz)[0],
            _tone(1_000, rate_hz=rate_hz),
        ]
    )
    images = log_mel(waves_BN, rate_hz=rate_hz)
    assert (images.shape, images.dtype) == ((3, *SHAPE), torch.uint8)
    for image, wave_N in zip(images[:, 0].numpy(), waves_BN.double().numpy(), strict=True):
        steps_MT = np.clip(255 * (_reference_db(wave_N, rate_hz) + 80) / 80, 0, 255)
        assert steps_MT.shape == (BANDS, FRAMES)
        assert np.abs(image - steps_MT).max() < 0.51  # half a step, and float32
        assert 20 < image.max() < 255  # the comparison is of levels, not of ends


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_filters_are_the_formula_written_out(rate_hz: int) -> None:
    frequencies = 257
    filters_MF = mel_filters(rate_hz, frequencies)
    np.testing.assert_allclose(filters_MF, _plain_filters(rate_hz, frequencies), atol=1e-6)
    assert (filters_MF.amax(dim=1) > 0.3).all()  # no band falls between two frequencies
    corners = _corners_hz(rate_hz)
    hz_F = torch.linspace(0, rate_hz / 2, frequencies)
    inside = (hz_F >= corners[1]) & (hz_F <= corners[-2])
    assert torch.allclose(filters_MF[:, inside].sum(dim=0), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_lands_in_its_band(rate_hz: int) -> None:
    tops_hz = _corners_hz(rate_hz)[1:-1]
    waves_BN = torch.stack([_tone(hz, rate_hz=rate_hz) for hz in tops_hz])
    loudest_B = log_mel(waves_BN, rate_hz=rate_hz)[:, 0, :, 10:90].float().mean(dim=2).argmax(dim=1)
    assert loudest_B.tolist() == list(range(BANDS))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_click_lands_in_its_hundredth(rate_hz: int) -> None:
    waves_BN = torch.zeros(FRAMES, rate_hz)
    for t in range(FRAMES):
        waves_BN[t, round((t + 0.5) * rate_hz / 100)] = 1
    heard_BT = log_mel(waves_BN, rate_hz=rate_hz)[:, 0].float().mean(dim=1)
    assert heard_BT.argmax(dim=1).tolist() == list(range(FRAMES))
    assert heard_BT[50, 48:53].bool().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_ten_decibels_are_a_tenth_of_the_way_from_80_decibels_to_none(rate_hz: int) -> None:
    quiet_BN = 1e-2 * _noise(4, rate_hz=rate_hz)
    quiet, loud = (
        log_mel(waves_BN, rate_hz=rate_hz).float() for waves_BN in (quiet_BN, quiet_BN * 10**0.5)
    )
    unclipped = quiet > 0
    assert unclipped.float().mean() > 0.9
    steps = (loud - quiet)[unclipped]
    assert (steps - 255 / 8).abs().max() <= 1.01  # both are rounded


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_full_tone_reads_0_to_3_decibels(rate_hz: int) -> None:
    tones_BN = torch.stack([_tone(hz, rate_hz=rate_hz) for hz in range(200, 3_000, 37)])
    peaks_B = log_mel(tones_BN, rate_hz=rate_hz)[:, 0, :, 50].amax(dim=1).float()
    levels_db = peaks_B / 255 * 80 - 80 + 20  # the tones have an amplitude of -20 dB
    assert (levels_db > -2.5).all()  # between two bands it has the half of each
    assert (levels_db < 3.2).all()
    assert log_mel(10 * tones_BN, rate_hz=rate_hz)[:, 0, :, 50].amax() == 255


def test_silence_is_black_and_a_constant_is_heard_in_the_lowest_bands_only() -> None:
    assert not log_mel(torch.zeros(1, 8_000), rate_hz=8_000).any()
    offset = log_mel(torch.full((1, 8_000), 1e-2), rate_hz=8_000)[0, 0, :, 2:-2]
    assert not offset[3:].any()


def test_each_of_a_batch_is_as_it_is_alone() -> None:
    waves_BN = _noise(5, rate_hz=8_000)
    together = log_mel(waves_BN, rate_hz=8_000)
    for i in range(5):
        alone = log_mel(waves_BN[i : i + 1], rate_hz=8_000)
        assert (together[i : i + 1].int() - alone.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("shape", "rate_hz"), [((2, 8_000), 16_000), ((2, 7_999), 8_000), ((8_000,), 8_000)]
)
def test_other_than_one_second_is_refused(shape: tuple[int, ...], rate_hz: int) -> None:
    with pytest.raises(ValueError, match="expected sound"):
        log_mel(torch.zeros(shape), rate_hz=rate_hz)


def test_other_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="rate_hz=44100"):
        log_mel(torch.zeros(1, 44_100), rate_hz=44_100)
