"""How loud a recording is, over time and pitch: its log-mel spectrogram as a grey image.

An image is 40 mel bands high, the lowest in row 0, and 100 frames wide, one for each 10 ms of one
second. A level is an absolute one: 0 is :data:`FLOOR_DB` or less and 255 is 0 dB, so that nothing
is told about one recording by another, and silence is black.

Dimension key:  B batch   N samples   M mel bands   F frequencies   T frames
"""

from functools import lru_cache

import torch
from torch import Tensor

BANDS, FRAMES = 40, 100
SHAPE = (1, BANDS, FRAMES)
RATES_HZ = (8_000, 16_000)
FLOOR_DB = -80.0
"""Relative to a sine of amplitude 1."""

_WINDOW_S, _HOP_S = 0.025, 0.01
_LOWEST_HZ = 20.0  # below is no voice, but hum


def log_mel(waves_BN: Tensor, *, rate_hz: int) -> Tensor:
    """Return uint8 images (B, 1, 40, 100) of one second of sound (B, ``rate_hz``).

    Windows of 25 ms (Hann) begin every 10 ms, the first so far before the beginning that frame t
    is centred in the t-th hundredth; there are zeros on both sides. The power of a band is the sum
    of those of the frequencies in its triangle, in dB relative to a sine of amplitude 1; levels
    from -80 to 0 dB become 0 to 255, others are clipped. A pure tone is spread over several
    frequencies and so reads up to 3 dB above its level.

    Raises:
        ValueError: not one second, or a rate that is not in :data:`RATES_HZ`.

    >>> log_mel(torch.zeros(3, 8_000), rate_hz=8_000).shape
    torch.Size([3, 1, 40, 100])
    """
    if rate_hz not in RATES_HZ or waves_BN.shape[1:] != (rate_hz,):
        raise ValueError(
            f"expected sound (B, rate_hz) with rate_hz in {RATES_HZ}, got {tuple(waves_BN.shape)} "
            f"and rate_hz={rate_hz}"
        )
    power_BFT = _power(waves_BN.float(), round(_WINDOW_S * rate_hz), round(_HOP_S * rate_hz))
    power_BMT = mel_filters(rate_hz, power_BFT.shape[1]) @ power_BFT
    level_BMT = 10 * power_BMT.clamp(min=10 ** (FLOOR_DB / 10)).log10()
    steps_BMT = (255 * (1 - level_BMT / FLOOR_DB)).round()
    return steps_BMT.clamp(0, 255).to(torch.uint8).unsqueeze(1)


@lru_cache(maxsize=len(RATES_HZ))
def mel_filters(rate_hz: int, frequencies: int) -> Tensor:
    """Return the weight of each frequency in each band (40, F); F runs from 0 to ``rate_hz`` / 2.

    Bands are triangles of height 1 that meet at their feet, evenly spaced in mel from 20 Hz to
    ``rate_hz`` / 2, on HTK's scale: mel = 2595 log10(1 + f / 700).

    Source: Young et al., *The HTK Book*, section 5.4 (filterbank analysis).
    """
    ends = torch.tensor([_LOWEST_HZ, rate_hz / 2], dtype=torch.float64)
    lowest, highest = (2595 * torch.log10(1 + ends / 700)).tolist()
    mels = torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64)
    corners_hz = 700 * (10 ** (mels / 2595) - 1)
    left_M1, top_M1, right_M1 = (corners_hz[i : i + BANDS, None] for i in range(3))
    hz_F = torch.linspace(0, rate_hz / 2, frequencies, dtype=torch.float64)
    rising_MF = (hz_F - left_M1) / (top_M1 - left_M1)
    falling_MF = (right_M1 - hz_F) / (right_M1 - top_M1)
    return torch.minimum(rising_MF, falling_MF).clamp(min=0).float()


def _power(waves_BN: Tensor, window: int, hop: int) -> Tensor:
    """Return the power of each frequency (B, F, T): 1 for a sine of amplitude 1 that hits it."""
    points = 1 << (window - 1).bit_length()  # the next power of 2
    hann = torch.hann_window(window, dtype=torch.float32)
    padding = (points - hop) // 2
    spectra_BFT = torch.stft(
        torch.nn.functional.pad(waves_BN, (padding, padding)),
        n_fft=points,
        hop_length=hop,
        win_length=window,
        window=hann,
        center=False,
        return_complex=True,
    )
    return spectra_BFT.abs().square() * (2 / hann.sum()) ** 2
